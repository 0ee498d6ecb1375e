"""Brokers that ask for TLS, a certificate of ours or a password: what gets through, and what is said else."""

import json
from pathlib import Path

import pytest
from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from cli.processes import Terminal, wait_for
from events.log import write
from events.relays import arrived, relay_in_this_process
from kafka import DEADLINE_SECONDS, PASSWORD, Kafka, make_certificates, needs_openssl
from truthloop.errors import KafkaUnavailable, SettingRefused, TruthloopError
from truthloop.events import from_kafka
from truthloop.events import kafka as kafka_client
from truthloop.events.from_kafka import KafkaEvents
from truthloop.events.kafka import Cluster
from truthloop.settings import load_settings

PREFIX = "TRUTHLOOP_KAFKA_"
CA = f"{PREFIX}SSL_CA_LOCATION"
CERTIFICATE = f"{PREFIX}SSL_CERTIFICATE_LOCATION"
KEY = f"{PREFIX}SSL_KEY_LOCATION"
KEY_PASSWORD = f"{PREFIX}SSL_KEY_PASSWORD"


def for_a_client(servers: str, certificates: Path) -> dict[str, str]:
    """The settings with which the broker lets us in."""
    return {
        f"{PREFIX}BOOTSTRAP_SERVERS": servers,
        f"{PREFIX}SECURITY_PROTOCOL": "ssl",
        CA: str(certificates / "ca.pem"),
        CERTIFICATE: str(certificates / "client.pem"),
        KEY: str(certificates / "client.key"),
        KEY_PASSWORD: PASSWORD,
    }


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch):
    """Sets variables; an empty one is as good as none."""

    def tell(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return tell


@pytest.fixture
def mutual(kafka: Kafka, told) -> dict[str, str]:
    """The settings for a broker that asks for a certificate; new settings have them."""
    kafka.needs_all()
    needs_openssl()
    variables = for_a_client(kafka.mutual, kafka.certificates)
    told(variables)
    return variables


def refusal(error: type[TruthloopError], monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said to one who reads from Kafka and may not."""
    # Who isn't let in soon isn't let in later; for the reason there is time, and it comes as soon as it is known.
    monkeypatch.setattr(from_kafka, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(kafka_client, "REASON_SECONDS", DEADLINE_SECONDS)
    with pytest.raises(error) as refused:
        KafkaEvents(load_settings(), follow=False)
    return str(refused.value)


def test_events_go_to_a_broker_that_asks_for_a_certificate_and_are_read_back(store, kafka, mutual):
    written = write(store, "signed")
    with relay_in_this_process(load_settings()):
        wait_for(lambda: arrived(kafka, {written}), "the event")

    terminal = Terminal(store.settings.home, **mutual)
    printed = terminal.answer("events", "--from-kafka", "--subject", "signed", "--json", "--limit", "100000")
    assert written in [json.loads(line)["id"] for line in printed.splitlines()]


def test_who_shows_no_certificate_is_told_which_settings_name_one(kafka, mutual, told, monkeypatch):
    told({CERTIFICATE: "", KEY: "", KEY_PASSWORD: ""})

    said = refusal(KafkaUnavailable, monkeypatch)

    assert said.startswith(f"Kafka at {kafka.mutual} asks for a certificate of ours (")
    assert f"Set {CERTIFICATE} and {KEY} to one that it trusts" in said


def test_who_shows_a_certificate_of_another_ca_is_told_that_it_isn_t_trusted(kafka, mutual, told, monkeypatch):
    stranger = kafka.certificates / "stranger.pem"
    told({CERTIFICATE: str(stranger), KEY: str(stranger.with_suffix(".key"))})

    said = refusal(KafkaUnavailable, monkeypatch)

    assert said.startswith(f"Kafka at {kafka.mutual} doesn't trust our certificate (")
    assert f"Set {CERTIFICATE}, now {stranger}, to one that was signed by those whom it trusts" in said


def test_a_broker_of_another_ca_isn_t_trusted_and_the_setting_is_named(kafka, mutual, told, monkeypatch):
    other = kafka.certificates / "other-ca.pem"
    told({CA: str(other)})

    said = refusal(KafkaUnavailable, monkeypatch)

    assert "shows a certificate that nobody whom we trust vouches for" in said
    assert f"Set {CA}, now {other}, to a file with the certificates of those who signed it" in said


def test_tls_to_a_port_without_it_names_the_protocol(kafka, mutual, told, monkeypatch):
    told({f"{PREFIX}BOOTSTRAP_SERVERS": kafka.servers})

    said = refusal(KafkaUnavailable, monkeypatch)

    assert f"Set {PREFIX}SECURITY_PROTOCOL, now ssl, to what it speaks at that port" in said


def test_who_asks_about_the_cluster_is_told_why_as_well(kafka, mutual, told, monkeypatch):
    """So ask the relay and `truthloop doctor`."""
    told({CERTIFICATE: "", KEY: "", KEY_PASSWORD: ""})
    monkeypatch.setattr(kafka_client, "ANSWER_SECONDS", 0.5)
    cluster = Cluster(load_settings(), name="test")

    def said() -> str:
        with pytest.raises(KafkaUnavailable) as refused:
            cluster.describe()
        return str(refused.value)

    wait_for(lambda: f"Set {CERTIFICATE} and {KEY} to one that it trusts" in said(), "the reason")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and keys without a broker."""
    needs_openssl()
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    make_certificates(folder)
    return folder


@pytest.mark.parametrize(
    ("changed", "value", "expected"),
    [
        (KEY_PASSWORD, "wrong-one", f"{KEY} is {{folder}}/client.key, which {KEY_PASSWORD} doesn't decrypt ("),
        (KEY_PASSWORD, "", f"Set {KEY_PASSWORD} to its password."),
        (KEY, "{folder}/stranger.key", f"{KEY} is {{folder}}/stranger.key, which isn't its key ("),
        (KEY, "{folder}/client.pem", f"{KEY} is {{folder}}/client.pem, in which there is no key ("),
        (KEY, "", f"Of {CERTIFICATE} and {KEY} only one is set. Set both"),
        (CERTIFICATE, "", f"Of {CERTIFICATE} and {KEY} only one is set. Set both"),
        (CERTIFICATE, "{folder}/gone.pem", f"{CERTIFICATE} is {{folder}}/gone.pem, which can't be read: No such"),
        (CERTIFICATE, "{folder}/client.key", f"{CERTIFICATE} is {{folder}}/client.key, in which there is no cert"),
        (CA, "{folder}/gone.pem", f"{CA} is {{folder}}/gone.pem, which can't be read: No such"),
        (CA, "{folder}/client.key", f"{CA} is {{folder}}/client.key, in which there is no certificate ("),
    ],
)
def test_a_file_or_password_that_can_t_be_used_is_named(
    settings, certificates, told, monkeypatch, changed, value, expected
):
    told(for_a_client("127.0.0.1:9", certificates) | {changed: value.format(folder=certificates)})

    said = refusal(SettingRefused, monkeypatch)

    assert expected.format(folder=certificates) in said
    assert "wrong-one" not in said


def test_a_relay_that_can_t_use_its_key_ends_and_says_why(store, certificates):
    variables = for_a_client("127.0.0.1:9", certificates) | {KEY_PASSWORD: "wrong-one"}
    terminal = Terminal(store.settings.home, TRUTHLOOP_DATABASE=store.settings.database, **variables)

    done = terminal.run("relay")

    assert done.returncode != 0
    assert f"which {KEY_PASSWORD} doesn't decrypt" in " ".join(done.stderr.split())


@pytest.fixture
def scram(kafka: Kafka, told) -> dict[str, str]:
    """The settings of a user whose password the broker knows only as SCRAM has it; new settings have them."""
    kafka.needs_all()
    known = UserScramCredentialUpsertion(
        "scrambled", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode()
    )
    admin = kafka.admin()  # without a name it would be gone before its answer
    admin.alter_user_scram_credentials([known])["scrambled"].result(DEADLINE_SECONDS)
    variables = {
        f"{PREFIX}BOOTSTRAP_SERVERS": kafka.secured,
        f"{PREFIX}SECURITY_PROTOCOL": "sasl_ssl",
        f"{PREFIX}SASL_MECHANISM": "SCRAM-SHA-512",
        f"{PREFIX}SASL_USERNAME": "scrambled",
        f"{PREFIX}SASL_PASSWORD": PASSWORD,
        CA: str(kafka.certificate),
    }
    told(variables)
    return variables


def test_events_go_to_a_broker_that_asks_for_a_scram_password_and_are_read_back(store, kafka, scram):
    written = write(store, "scrambled")
    with relay_in_this_process(load_settings()):
        wait_for(lambda: arrived(kafka, {written}), "the event")

    assert written in [event.id for event in KafkaEvents(load_settings(), follow=False)]


def test_a_wrong_password_names_the_user_and_its_settings(scram, told, monkeypatch):
    told({f"{PREFIX}SASL_PASSWORD": "wrong-one"})

    said = refusal(KafkaUnavailable, monkeypatch)

    assert "doesn't let the user scrambled in (" in said
    assert f"Correct {PREFIX}SASL_USERNAME or {PREFIX}SASL_PASSWORD" in said
    assert "wrong-one" not in said


def test_a_way_to_sign_in_that_the_broker_lacks_is_named(scram, told, monkeypatch):
    told({f"{PREFIX}SASL_MECHANISM": "SCRAM-SHA-256"})

    said = refusal(KafkaUnavailable, monkeypatch)

    assert f"Set {PREFIX}SASL_MECHANISM, now SCRAM-SHA-256, to one that it names" in said
