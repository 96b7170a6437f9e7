"""Hugging Face checkpoints open here, ours open there, and broken ones say what to do."""

import json
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertjobs.errors import ModelError
from bertjobs.modeling import build_classifier, build_pretraining, load_weights, save_pretrained
from bertjobs.modeling.d2l import REGISTRY
from padded_rows import packed, padded_rows


@pytest.fixture
def their_folder(tmp_path, small_config):
    torch.manual_seed(0)
    words = {
        k: getattr(small_config, k) for k in small_config.__dataclass_fields__ if k != "embedding_layer_norm"
    }
    config = transformers.BertConfig(**words, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def logits_of(folder, inputs, cache):
    loaded = load_weights(folder, cache=cache)
    model = build_classifier(loaded, num_labels=3, seed=0, keep_head=True).eval()
    with torch.no_grad():
        return model(inputs)


def test_a_folder_that_transformers_wrote_gives_its_logits(their_folder, pair_inputs, tmp_path):
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(their_folder).eval()
    with torch.no_grad():
        expected_BC = reference(**padded_rows(pair_inputs)).logits
    torch.testing.assert_close(logits_of(their_folder, pair_inputs, tmp_path), expected_BC, atol=1e-5, rtol=0)


def test_our_folder_opens_in_transformers_with_its_labels_and_tokenizer(small_config, pair_inputs, tmp_path):
    model = build_classifier(small_config, num_labels=3, seed=3).eval()
    labels = ("entailment", "neutral", "contradiction")
    save_pretrained(model, tmp_path / "ours", labels=labels)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(115))]
    (tmp_path / "ours" / "vocab.txt").write_text("\n".join(words) + "\n")  # the caller's part

    reference, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(reference).__name__ == "BertForSequenceClassification"
    assert reference.config.id2label == dict(enumerate(labels))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").vocab_size == 120
    with torch.no_grad():
        expected_BC = reference.eval()(**padded_rows(pair_inputs)).logits
        torch.testing.assert_close(model(pair_inputs), expected_BC, atol=1e-5, rtol=0)


def test_our_pretraining_model_opens_in_transformers(small_config, tmp_path):
    model = build_pretraining(small_config, seed=1)
    save_pretrained(model, tmp_path / "ours")
    reference, report = transformers.AutoModelForPreTraining.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(reference.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight)


def test_saving_and_loading_changes_nothing(small_config, tmp_path):
    model = build_classifier(small_config, num_labels=3, seed=3, classifier_dropout=0.25)
    save_pretrained(model, tmp_path, labels=("a", "b", "c"))
    loaded = load_weights(tmp_path, cache=tmp_path)
    again = build_classifier(loaded, num_labels=3, seed=9, keep_head=True)
    assert loaded.labels == ("a", "b", "c")
    assert again.config == model.config
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_sharded_and_pickled_checkpoints_give_the_same_logits(their_folder, pair_inputs, tmp_path):
    expected_BC = logits_of(their_folder, pair_inputs, tmp_path)
    tensors = load_file(their_folder / "model.safetensors")

    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_bytes((their_folder / "config.json").read_bytes())
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, sharded / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits_of(sharded, pair_inputs, tmp_path), expected_BC)

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((their_folder / "config.json").read_bytes())
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in tensors.items()}
    old["bert.embeddings.position_ids"] = torch.arange(48)[None]
    torch.save(old, pickled / "pytorch_model.bin")
    assert torch.equal(logits_of(pickled, pair_inputs, tmp_path), expected_BC)


def test_a_bare_encoder_gets_a_new_head_drawn_from_the_seed(small_config, tmp_path):
    words = {
        k: getattr(small_config, k) for k in small_config.__dataclass_fields__ if k != "embedding_layer_norm"
    }
    reference = transformers.BertModel(transformers.BertConfig(**words), add_pooling_layer=False)
    reference.save_pretrained(tmp_path / "encoder")
    loaded = load_weights(tmp_path / "encoder", cache=tmp_path)
    a, b, c = (build_classifier(loaded, num_labels=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.classifier.weight, b.classifier.weight)
    assert not torch.equal(a.classifier.weight, c.classifier.weight)
    assert torch.equal(a.bert.embeddings.word_embeddings.weight, reference.embeddings.word_embeddings.weight)
    with pytest.raises(ModelError, match=r"has no classifier.*Fine-tune it first: bertjobs submit finetune"):
        build_classifier(loaded, num_labels=2, seed=0, keep_head=True)


def test_a_head_for_other_classes_is_refused(their_folder, tmp_path):
    loaded = load_weights(their_folder, cache=tmp_path)
    with pytest.raises(ModelError, match=r"has 3 classes, but the task has 2\. Give the --task"):
        build_classifier(loaded, num_labels=2, seed=0, keep_head=True)


@pytest.mark.parametrize("keep", [0, 7, 400, 0.5, 0.999])
def test_safetensors_cut_short_anywhere_is_a_model_error(their_folder, tmp_path, keep):
    path = their_folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(
        ModelError, match=r"model\.safetensors is cut short .* Download or copy the file again\."
    ):
        load_weights(their_folder, cache=tmp_path)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(their_folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (their_folder / "model.safetensors").unlink()
    torch.save({"bert.x": Trap()}, their_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cut short or holds more than tensors"):
        load_weights(their_folder, cache=tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_an_index_that_leaves_the_folder_is_refused(their_folder, tmp_path):
    (their_folder / "model.safetensors").unlink()
    index = {"weight_map": {"bert.x": "../elsewhere.safetensors"}}
    (their_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names \.\./elsewhere\.safetensors, which lies outside"):
        load_weights(their_folder, cache=tmp_path)


def change_config(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', which is not supported. Give a BERT encoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_act": "swish"}, "hidden_act 'swish' is not supported. Supported are gelu"),
        ({"num_attention_heads": 5}, "hidden_size 32 cannot be divided among 5 heads"),
    ],
)
def test_a_configuration_that_is_not_built_here_is_refused(their_folder, tmp_path, changes, message):
    change_config(their_folder, **changes)
    with pytest.raises(ModelError, match=re.escape(message)):
        load_weights(their_folder, cache=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 60}, r"word_embeddings\.weight has shape \(120, 32\).*vocabulary and the weights"),
        ({"intermediate_size": 32}, r"intermediate\.dense\.\w+ has shape .*describes another model"),
        (
            {"num_hidden_layers": 3},
            r"lacks bert\.encoder\.layer\.2\..* and 15 more\. Its config\.json describes",
        ),
    ],
)
def test_weights_that_do_not_fit_their_configuration_say_so(their_folder, tmp_path, changes, message):
    change_config(their_folder, **changes)
    loaded = load_weights(their_folder, cache=tmp_path)
    with pytest.raises(ModelError, match=message):
        build_classifier(loaded, num_labels=3, seed=0)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_says_which(their_folder, tmp_path, missing):
    (their_folder / missing).unlink()
    with pytest.raises(ModelError, match=f"there is no {re.escape(missing)}"):
        load_weights(their_folder, cache=tmp_path)


def test_a_missing_source_and_a_broken_config_are_model_errors(their_folder, tmp_path):
    with pytest.raises(ModelError, match=r"--model .*nowhere: there is no such file or folder"):
        load_weights(tmp_path / "nowhere", cache=tmp_path)
    (their_folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read as JSON .* Download or copy"):
        load_weights(their_folder, cache=tmp_path)


def test_a_head_count_for_a_hugging_face_folder_is_refused_not_ignored(their_folder, tmp_path):
    with pytest.raises(ModelError, match=r"model\.num_heads=4 has no effect"):
        load_weights(their_folder, cache=tmp_path, num_heads=4)


def test_the_registry_knows_the_published_archives():
    assert {a.name: (a.sha1, a.num_heads) for a in REGISTRY.values()} == {
        "bert.base.torch.zip": ("225d66f04cae318b841a13d32af3acc165f253ac", 12),
        "bert.small.torch.zip": ("c72329e68a732bef0452e4b96a1c341c8910f81f", 4),
    }


@pytest.mark.minilm
def test_minilm_gives_the_hidden_states_of_transformers_and_comes_back_unchanged(minilm, tmp_path):
    from bertjobs.modeling import pack_rows

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    pairs = [
        ("A man inspects a uniform.", "The man is sleeping."),
        ("Two women embrace.", "They hug on the street."),
    ]
    encoded = [tokenizer(a, b) for a, b in pairs]
    inputs = pack_rows([e["input_ids"] for e in encoded], segments=[e["token_type_ids"] for e in encoded])
    loaded = load_weights(minilm, cache=tmp_path)
    assert loaded.tokenizer_path == minilm
    model = build_classifier(loaded, num_labels=3, seed=0).eval()
    reference = transformers.BertModel.from_pretrained(minilm).eval()
    with torch.no_grad():
        expected = reference(**padded_rows(inputs))
        hidden_ND, pooled_BD = model.bert(inputs), model.bert.pooled(inputs)
        logits_BC = model(inputs)
    expected_ND = packed(expected.last_hidden_state, inputs)
    torch.testing.assert_close(hidden_ND, expected_ND, atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled_BD, expected.pooler_output, atol=1e-5, rtol=0)

    save_pretrained(model, tmp_path / "ours", labels=("a", "b", "c"))
    ours = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(**padded_rows(inputs)).logits, logits_BC, atol=1e-5, rtol=0)


def test_a_model_whose_weights_are_all_given_draws_none(small_config, tmp_path, monkeypatch):
    trained = build_classifier(small_config, num_labels=2, seed=3)
    save_pretrained(trained, tmp_path)
    loaded = load_weights(tmp_path, cache=tmp_path)
    new_heads = [build_classifier(loaded, num_labels=2, seed=4).classifier.weight for _ in range(2)]
    assert torch.equal(*new_heads)
    assert not torch.equal(new_heads[0], trained.classifier.weight)

    def refuse(*_args, **_given):
        raise AssertionError("a weight was drawn")

    monkeypatch.setattr("bertjobs.modeling.build._initialize", refuse)
    kept = build_classifier(loaded, num_labels=2, seed=4, keep_head=True)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), trained.parameters(), strict=True))
