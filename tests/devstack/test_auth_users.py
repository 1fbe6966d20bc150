"""The Auth part, judged by the unmodified client: who signs in, stays and leaves."""

import pytest
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError


@pytest.fixture
async def visitor(client_of, gateway):
    return await client_of(gateway.keys.publishable)


async def test_an_anonymous_visitor_gets_a_user_and_a_session(visitor, sql):
    answer = await visitor.auth.sign_in_anonymously()
    assert answer.user.is_anonymous is True
    assert answer.session.expires_in == 3600
    assert answer.session.user.id == answer.user.id
    assert sql("select is_anonymous from auth.users where id = %s::uuid", answer.user.id) == [
        (True,)
    ]
    assert (await visitor.auth.get_user()).user.id == answer.user.id


async def test_sign_up_sign_out_and_sign_in_with_a_password(visitor):
    credentials = {"email": "a@example.com", "password": "correct horse"}
    made = await visitor.auth.sign_up(credentials)
    assert made.user.email == "a@example.com"
    await visitor.auth.sign_out()
    assert await visitor.auth.get_session() is None
    again = await visitor.auth.sign_in_with_password(credentials)
    assert again.user.id == made.user.id


@pytest.mark.parametrize("wrong", [{"password": "wrong horse"}, {"email": "b@example.com"}])
async def test_wrong_credentials_are_refused_alike(visitor, wrong):
    credentials = {"email": "a@example.com", "password": "correct horse"}
    await visitor.auth.sign_up(credentials)
    with pytest.raises(AuthApiError, match="Invalid login credentials") as error:
        await visitor.auth.sign_in_with_password(credentials | wrong)
    assert error.value.code == "invalid_credentials"


async def test_a_password_must_be_long_enough_and_an_address_new(visitor):
    with pytest.raises(AuthWeakPasswordError, match="at least 6"):
        await visitor.auth.sign_up({"email": "a@example.com", "password": "short"})
    await visitor.auth.sign_up({"email": "a@example.com", "password": "correct horse"})
    with pytest.raises(AuthApiError, match="already registered"):
        await visitor.auth.sign_up({"email": "A@example.com", "password": "correct horse"})


async def test_a_refresh_token_works_once(visitor):
    session = (await visitor.auth.sign_in_anonymously()).session
    fresh = await visitor.auth.refresh_session(session.refresh_token)
    assert fresh.user.id == session.user.id
    with pytest.raises(AuthApiError, match="Refresh Token Not Found"):
        await visitor.auth.refresh_session(session.refresh_token)


async def test_no_password_is_stored_as_it_was_typed(visitor, sql):
    await visitor.auth.sign_up({"email": "a@example.com", "password": "correct horse"})
    ((stored,),) = sql("select encrypted_password from auth.users")
    assert "correct" not in stored


async def test_only_the_service_creates_users(service, visitor):
    made = await service.auth.admin.create_user({"email": "c@example.com", "password": "longer"})
    assert made.user.email == "c@example.com"
    with pytest.raises(AuthApiError, match="not allowed"):
        await visitor.auth.admin.create_user({"email": "d@example.com", "password": "longer"})
