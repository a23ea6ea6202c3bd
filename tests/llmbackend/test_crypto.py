import json
from itertools import combinations

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, strategies as st

from llmbackend.crypto import origin_of, seal, unseal
from llmbackend.errors import StoredKeyUnreadable

KEYS = [Fernet.generate_key().decode()]
ORIGIN = "https://api.openai.com:443"
OWNERS = st.integers(min_value=1, max_value=2**63 - 1)


@given(plaintext=st.text(), owner=OWNERS, origin=st.text())
def test_what_was_sealed_comes_back_for_its_owner_and_origin(
    plaintext: str, owner: int, origin: str
) -> None:
    token = seal(plaintext, keys=KEYS, owner_id=owner, origin=origin)

    assert unseal(token, keys=KEYS, owner_id=owner, origin=origin) == plaintext


@given(owners=st.lists(OWNERS, min_size=2, max_size=2, unique=True))
def test_what_was_sealed_for_one_owner_is_closed_to_another(owners: list[int]) -> None:
    alice, mallory = owners
    token = seal("sk-1", keys=KEYS, owner_id=alice, origin=ORIGIN)

    with pytest.raises(StoredKeyUnreadable):
        unseal(token, keys=KEYS, owner_id=mallory, origin=ORIGIN)


@pytest.mark.parametrize(
    "origin", ["http://api.openai.com:443", "https://api.openai.com:444", ""]
)
def test_what_was_sealed_for_one_origin_is_closed_to_another(origin: str) -> None:
    token = seal("sk-1", keys=KEYS, owner_id=1, origin=ORIGIN)

    with pytest.raises(StoredKeyUnreadable):
        unseal(token, keys=KEYS, owner_id=1, origin=origin)


@given(token=st.text())
def test_what_was_never_sealed_is_unreadable(token: str) -> None:
    with pytest.raises(StoredKeyUnreadable):
        unseal(token, keys=KEYS, owner_id=1, origin=ORIGIN)


@given(position=st.integers(min_value=0, max_value=10_000), new=st.characters())
def test_a_changed_token_is_unreadable_or_unchanged_in_meaning(
    position: int, new: str
) -> None:
    token = seal("sk-1", keys=KEYS, owner_id=1, origin=ORIGIN)
    position %= len(token)
    changed = token[:position] + new + token[position + 1 :]

    try:
        opened = unseal(changed, keys=KEYS, owner_id=1, origin=ORIGIN)
    except StoredKeyUnreadable:
        return

    assert opened == "sk-1"


@pytest.mark.parametrize(
    "opened",
    [
        "not json",
        "[]",
        "{}",
        json.dumps({"v": 2, "owner": 1, "origin": ORIGIN, "key": "sk-1"}),
        json.dumps({"v": 1, "owner": "1", "origin": ORIGIN, "key": "sk-1"}),
        json.dumps({"v": 1, "owner": 1, "origin": ORIGIN, "key": None}),
        json.dumps({"v": 1, "owner": 1, "origin": ORIGIN}),
    ],
)
def test_another_form_under_the_right_key_is_unreadable(opened: str) -> None:
    token = Fernet(KEYS[0]).encrypt(opened.encode()).decode()

    with pytest.raises(StoredKeyUnreadable):
        unseal(token, keys=KEYS, owner_id=1, origin=ORIGIN)


def test_an_old_key_still_opens_and_the_newest_seals() -> None:
    old, new = KEYS[0], Fernet.generate_key().decode()
    before = seal("sk-1", keys=[old], owner_id=1, origin=ORIGIN)
    after = seal("sk-1", keys=[new, old], owner_id=1, origin=ORIGIN)

    assert unseal(before, keys=[new, old], owner_id=1, origin=ORIGIN) == "sk-1"
    assert unseal(after, keys=[new], owner_id=1, origin=ORIGIN) == "sk-1"
    with pytest.raises(StoredKeyUnreadable):
        unseal(after, keys=[old], owner_id=1, origin=ORIGIN)


def test_the_token_shows_nothing_and_never_repeats() -> None:
    tokens = [seal("sk-1", keys=KEYS, owner_id=1, origin=ORIGIN) for _ in range(3)]

    assert all("sk-1" not in token for token in tokens)
    assert all(one != other for one, other in combinations(tokens, 2))


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com:443"),
        ("HTTPS://API.OpenAI.com:443/v2/", "https://api.openai.com:443"),
        ("http://localhost", "http://localhost:80"),
        ("http://localhost:8000/v1", "http://localhost:8000"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_an_origin_is_scheme_host_and_port(base_url: str, origin: str) -> None:
    assert origin_of(base_url) == origin


@pytest.mark.parametrize("base_url", ["", "localhost:8000", "ftp://a", "https:///v1"])
def test_an_address_without_an_origin_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match="expected an http"):
        origin_of(base_url)
