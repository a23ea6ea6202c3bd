"""The paths and methods of conversations: slashes, refusals, no redirects."""

import pytest

from tests.conversations.conftest import make_conversation


@pytest.fixture
def paths(alice):
    conversation = make_conversation(alice).pk
    return {
        "create": ("POST", "/api/conversations/create"),
        "list": ("GET", "/api/conversations/list"),
        "history": ("GET", f"/api/conversations/history/{conversation}"),
        "del": ("POST", f"/api/conversations/del/{conversation}"),
    }


VERBS = ["create", "list", "history", "del"]
BODY = {"title": "Rust", "model": "gpt-4o"}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_trailing_slash_makes_no_difference(as_alice, paths, verb, slash):
    method, path = paths[verb]

    response = as_alice.request(method, path + slash, json=BODY)

    assert response.status_code == 200
    assert response.history == []


@pytest.mark.parametrize("verb", VERBS)
def test_two_slashes_are_a_404_and_no_redirect(as_alice, paths, verb):
    method, path = paths[verb]

    response = as_alice.request(method, f"{path}//", json=BODY)

    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrong", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_another_method_is_a_405_in_the_error_body(as_alice, paths, verb, wrong):
    method, path = paths[verb]
    if wrong == method:
        return

    response = as_alice.request(wrong, path)

    assert response.status_code == 405
    body = response.json()
    assert body.pop("request_id")
    assert body == {
        "error": "This address does not take that method.",
        "code": "method_not_allowed",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_token_it_is_a_401_in_the_error_body(anonymous, paths, verb):
    method, path = paths[verb]

    response = anonymous.request(method, path, json=BODY)

    assert response.status_code == 401
    assert response.json()["code"] == "unauthorized"
    assert response.headers["www-authenticate"] == 'Bearer realm="llmbackend"'
