"""The request as Ray wants it: a bundle each, without amounts of zero."""

from bertjobs.runs.scale_request import bundles_of


def test_a_bundle_is_repeated_and_has_no_zero():
    found = bundles_of("[[0.5, 0.0, 1], [1.0, 1.0, 2]]")
    assert found == [{"CPU": 0.5}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}]


def test_taking_back_is_an_empty_request():
    assert bundles_of("[]") == []
