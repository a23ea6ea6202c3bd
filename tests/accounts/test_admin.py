"""Accounts in the admin."""

import pytest
from django.test import Client as Browser

from accounts.models import User
from tests.conftest import PASSWORD, make_user

USERS = "/admin/accounts/user/"
NEW = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}


@pytest.fixture
def browser(server):
    """A browser in which an administrator has logged in."""
    root = User.objects.create_superuser("root", password=PASSWORD)
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(root)
    return browser


def test_an_account_is_made_that_can_log_in(browser, anonymous):
    response = browser.post(f"{USERS}add/", {"username": "ünal", **NEW})

    assert response.status_code == 302
    body = {"username": "Ünal", "password": PASSWORD}
    assert anonymous.post("/api/users/login", json=body).status_code == 200


@pytest.mark.parametrize("name", ["ünal", "ÜNAL"])
def test_a_name_that_is_taken_is_refused_on_the_page(browser, name):
    make_user("ünal")

    response = browser.post(f"{USERS}add/", {"username": name, **NEW})

    assert response.status_code == 200
    assert "already" in response.content.decode()
    assert User.objects.count() == 2
