"""`bertjobs doctor` as it is typed: a page for people, a document for programs, an exit code for both."""

import json


def test_what_is_down_is_said_with_the_remedy_and_fails(run, home):
    result = run("doctor")
    assert result.exit_code == 1
    assert "broken    redis              Redis at unix://" in result.stdout
    assert "-> Start it, or correct BERTJOBS_RAY_ADDRESS" in result.stdout
    assert "ok        storage            " in result.stdout
    assert result.stderr == ""


def test_a_program_gets_one_document(run, home):
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["is_well"] is False
    assert {"name", "verdict", "found", "remedy"} == set(document["checks"][0])
    assert [check["name"] for check in document["checks"]] == [
        "redis",
        "dispatcher",
        "storage",
        "ray",
        "nodes",
    ]


def test_a_stack_that_was_never_started_is_well_and_stays_unstarted(run, home, monkeypatch):
    for name in ("BERTJOBS_REDIS_URL", "BERTJOBS_RAY_ADDRESS"):
        monkeypatch.delenv(name)
    result = run("doctor")
    assert result.exit_code == 0
    assert "not started under" in result.stdout
    assert not (home / "stack").exists()


def test_a_redis_without_a_dispatcher_is_not_well(run, store):
    document = json.loads(run("doctor", "--quick", "--json").stdout)
    found = {check["name"]: check for check in document["checks"]}
    assert found["redis persistence"]["verdict"] == "ok"
    assert found["dispatcher"]["verdict"] == "broken"
    assert "bertjobs dispatcher" in found["dispatcher"]["remedy"]
