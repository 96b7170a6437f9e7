"""Which rows a run trains and validates on."""

from bertjobs.config.finetune import DataSection
from bertjobs.runs.data.rows import read_training_rows
from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.vocabulary import train_wordpiece


def test_snli_validates_on_its_development_file(sample, tmp_path):
    train, (valid,) = read_training_rows(SNLI, DataSection(path=str(sample / "snli_1.0")), cache=tmp_path)
    assert (train.split, valid.split) == ("train", "dev")
    assert train.table.num_rows > 500 > valid.table.num_rows > 100


def test_cola_holds_out_a_tenth_even_beside_a_development_file(sample, tmp_path):
    train, (valid,) = read_training_rows(COLA, DataSection(path=str(sample / "cola_public")), cache=tmp_path)
    num_rows = train.table.num_rows + valid.table.num_rows
    assert valid.table.num_rows == -(-num_rows // 10)
    assert not set(train.table["index"].to_pylist()) & set(valid.table["index"].to_pylist())


def test_a_limit_takes_the_first_rows_and_has_an_encoded_form_of_its_own(sample, tmp_path):
    path = str(sample / "snli_1.0")
    full, _ = read_training_rows(SNLI, DataSection(path=path), cache=tmp_path)
    some, _ = read_training_rows(SNLI, DataSection(path=path, limit_train=20), cache=tmp_path)
    assert some.table.equals(full.table.slice(0, 20))
    tokenizer = train_wordpiece(full.table["text_a"], vocab_size=256)
    keys = {full.key(SNLI, tokenizer), some.key(SNLI, tokenizer)}
    assert len(keys) == 2
    again, _ = read_training_rows(SNLI, DataSection(path=path), cache=tmp_path)
    assert again.key(SNLI, tokenizer) in keys
