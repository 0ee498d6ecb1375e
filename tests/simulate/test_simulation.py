import hashlib
import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer

from api.service import TOKEN
from events.relays import arrived, relay_in_this_process, wait_for, with_messages, write_job
from simulate.flaky import flaky, refusing
from truthloop.events.from_kafka import KafkaEvents
from truthloop.events.passed_on import first_id_at
from truthloop.events.record import COLLECTION, record
from truthloop.predict.documents import JOBS, RESULTS
from truthloop.settings import load_settings
from truthloop.simulate.pictures import DrawnPictures, FolderPictures
from truthloop.simulate.run import Report, Simulation
from truthloop.store.connection import Store

QUICK = ("opencv_faces",)


def simulated(address: str, **asked) -> Report:
    return Simulation(address, TOKEN, **{"models": QUICK, "concurrency": 4} | asked).run()


def test_a_run_ends_with_every_job_where_it_was_brought(address: str, store: Store):
    report = simulated(address, jobs=30)

    assert report.ok, report
    # Four of five ran to their end; who is too late to cancel one finds it succeeded as well.
    assert report.states["succeeded"] >= 24
    assert report.states["deleted"] == 3
    assert sum(report.states.values()) == report.acknowledged == report.jobs == 30
    assert Counter(job["state"] for job in store[JOBS].find()) + Counter(deleted=3) == report.states
    assert report.events == store[COLLECTION].count_documents({"type": {"$regex": "job"}})
    assert report.operations["job"].count == 24
    assert set(report.operations) >= {"create", "execute", "create+execute", "read", "result", "cancel", "delete"}
    assert sum(report.ended_each_second) == 30


def test_lost_requests_and_lost_answers_make_no_job_twice_and_lose_none(address: str, store: Store):
    with flaky(address) as uncertain:
        report = simulated(uncertain, jobs=25)

    assert report.ok, report
    assert {"connection", "429", "503"} <= report.retries.keys()
    assert store[JOBS].count_documents({}) + report.states["deleted"] == 25


def lose_a_job(store: Store, job: str) -> None:
    store[JOBS].delete_one({"_id": job})


def lose_a_result(store: Store, job: str) -> None:
    """Wherever it is: a small one stands in its job."""
    store[RESULTS].delete_one({"_id": job})
    store[JOBS].update_one({"_id": job}, {"$unset": {"result": ""}})


def lose_an_event(store: Store, job: str) -> None:
    store[COLLECTION].delete_one({"subject": job, "type": "dev.truthloop.job.started"})


def forget_the_end(store: Store, job: str) -> None:
    store[JOBS].update_one({"_id": job}, {"$set": {"state": "created"}})


def make_a_job_twice(store: Store, job: str) -> None:
    made = store[JOBS].find_one({"_id": job})
    assert made is not None
    store[JOBS].insert_one(made | {"_id": job[:-4] + "beef"})


def end_twice(store: Store, job: str) -> None:
    add_an_event(store, job, "succeeded")


def change_a_result(store: Store, job: str) -> None:
    store[RESULTS].update_one({"_id": job}, {"$set": {"width": 7}})
    store[JOBS].update_one({"_id": job, "result": {"$exists": True}}, {"$set": {"result.width": 7}})


def fail_after_all(store: Store, job: str) -> None:
    add_an_event(store, job, "failed")
    store[JOBS].update_one({"_id": job}, {"$set": {"error": "A worker gone mad."}})


def take_another_image(store: Store, job: str) -> None:
    store[JOBS].update_one({"_id": job}, {"$set": {"image_id": "0" * 64}})


def take_another_model(store: Store, job: str) -> None:
    store[JOBS].update_one({"_id": job}, {"$set": {"model": "opencv_people"}})


def answer_otherwise(store: Store, job: str) -> None:
    """What the model would say of another picture."""
    box = {"label": "face", "score": 1.0, "left": 0.1, "top": 0.1, "right": 0.2, "bottom": 0.2}
    store[JOBS].update_one(
        {"_id": job, "result": {"$exists": True}}, {"$set": {"result.answer": {"boxes": [box]}}}
    )


def swap_two_events(store: Store, job: str) -> None:
    for place, to in ((3, 99), (4, 3), (99, 4)):
        store[COLLECTION].update_one({"subject": job, "sequence": place}, {"$set": {"sequence": to}})


def cancel_unasked(store: Store, job: str) -> None:
    add_an_event(store, job, "cancelled")


def add_an_event(store: Store, job: str, state: str) -> None:
    """Changes the state of a job that has ended, with an event, as a worker gone mad would."""
    of = {"source": "/predict", "data": {"state": state}}

    def work(session) -> None:
        store[JOBS].update_one({"_id": job}, {"$set": {"state": state}, "$inc": {"revision": 1}}, session=session)
        record(store, session, type=f"job.{state}", subject=job, sequence=5, **of)

    store.transaction(work)


TAMPERINGS = {
    lose_a_job: ("lost", "is not there"),
    lose_a_result: ("lost", "has no result"),
    lose_an_event: ("lost", "lacks the events 3"),
    forget_the_end: ("lost", "its last event says succeeded"),
    make_a_job_twice: ("doubled", "by the same request"),
    end_twice: ("doubled", "has ended 2 times"),
    change_a_result: ("doubled", "has another result"),
    swap_two_events: ("out_of_order", "was succeeded while it was queued"),
    cancel_unasked: ("unexpected", "nobody asked"),
    fail_after_all: ("unexpected", "has failed: A worker gone mad."),
    take_another_image: ("unexpected", "its result is of the image 000"),
    take_another_model: ("unexpected", "it is of the model opencv_people"),
    answer_otherwise: ("unexpected", "has another result than job"),
}
# Of one thing that went wrong, more may be seen.
ALSO = {
    cancel_unasked: ("lost", "had a result, which was read, and is cancelled now"),
    fail_after_all: ("lost", "had a result, which was read, and is failed now"),
}


def two_pictures(folder: Path) -> FolderPictures:
    """So that there are several jobs of each."""
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(DrawnPictures(7)[number].data)
    return FolderPictures(folder)


def test_what_is_lost_doubled_or_out_of_order_is_found(address: str, store: Store, tmp_path: Path):
    tampered: dict[str, object] = {}

    class Tampered(Simulation):
        """A run after which somebody writes into the database, before all is read back."""

        def _check(self):
            succeeded = [job["_id"] for job in store[JOBS].find({"state": "succeeded", "attempts": 1})]
            for tamper, job in zip(TAMPERINGS, succeeded, strict=False):
                tamper(store, job)
                tampered[job] = tamper
            return super()._check()

    report = Tampered(address, TOKEN, jobs=22, models=QUICK, concurrency=4, pictures=two_pictures(tmp_path)).run()

    assert not report.ok
    assert len(tampered) == len(TAMPERINGS)
    for job, tamper in tampered.items():
        for fault, text in [TAMPERINGS[tamper], *([ALSO[tamper]] if tamper in ALSO else [])]:
            # One that was made twice is told of by the id of the second.
            assert [each for each in getattr(report, fault) if job[:-4] in each and text in each], tamper
    assert all(
        any(job[:-4] in each for job in tampered)
        for each in report.lost + report.doubled + report.out_of_order + report.unexpected
    )


def test_two_jobs_of_a_request_that_nobody_answered_are_doubled(address: str, store: Store):
    class Tampered(Simulation):
        """A run of which a job was made twice and acknowledged not once."""

        def _check(self):
            made = store[JOBS].find_one({"state": "succeeded"})
            assert made is not None
            deadline = self._book.deadline_seconds(7777)
            for end in ("beef", "cafe"):
                store[JOBS].insert_one(made | {"_id": made["_id"][:-4] + end, "deadline_seconds": deadline})
            return super()._check()

    report = Tampered(address, TOKEN, jobs=4, models=QUICK, concurrency=4).run()

    assert len(report.doubled) == 1
    assert "by the same request as job" in report.doubled[0]
    assert "(number 7777)" in report.doubled[0]


def test_a_job_that_fails_is_unexpected_and_says_why(idle: str, store: Store):
    simulation = Simulation(idle, TOKEN, jobs=2, models=QUICK)
    failing = threading.Thread(target=_fail_all, args=(store, 2))
    failing.start()

    report = simulation.run()

    failing.join()
    assert (report.ok, report.states) == (False, {"failed": 2})
    assert len(report.unexpected) == 2
    assert all(text.endswith("has failed: Tried 3 times. It was lost.") for text in report.unexpected)
    assert (report.lost, report.doubled, report.out_of_order) == ([], [], [])


def _fail_all(store: Store, jobs: int) -> None:
    """Fails jobs in the queue, as many as those, as after attempts in vain."""

    def fail(job: str) -> None:
        failed = {"state": "failed", "error": "Tried 3 times. It was lost."}

        def work(session) -> None:
            store[JOBS].update_one({"_id": job}, {"$set": failed, "$inc": {"revision": 1}}, session=session)
            told = {"source": "/predict", "data": {"state": "failed"}}
            record(store, session, type="job.failed", subject=job, sequence=3, **told)

        store.transaction(work)

    for _ in range(jobs):
        wait_for(lambda: store[JOBS].find_one({"state": "queued"}), "a job in the queue")
        fail(store[JOBS].find_one({"state": "queued"})["_id"])


def test_a_cancelling_that_is_refused_though_the_job_has_not_ended_is_unexpected(idle: str):
    with refusing(idle, "POST", "/cancel", 409) as refused:
        # Of five jobs the last is cancelled.
        report = simulated(refused, jobs=5, concurrency=5, patience_seconds=2.0)

    assert [text for text in report.unexpected if "can't be cancelled" in text and "It is queued." in text]


def test_jobs_that_no_worker_takes_are_told_of_when_patience_ends(idle: str):
    report = simulated(idle, jobs=1000, patience_seconds=1.0)

    assert not report.ok
    assert report.jobs < 100
    assert report.unanswered
    assert not report.lost
    assert all("Does a worker run?" in text for text in report.unanswered)


def test_the_images_of_a_folder_are_sent_as_they_are(address: str, store: Store, tmp_path: Path):
    pictures = DrawnPictures(7)
    (tmp_path / "deep").mkdir()
    files = [tmp_path / "one.jpg", tmp_path / "deep" / "two.png"]
    for number, path in enumerate(files):
        path.write_bytes(pictures[number].data)
    (tmp_path / "notes.txt").write_text("no image")

    report = simulated(address, jobs=10, pictures=FolderPictures(tmp_path))

    assert report.ok, report
    sent = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert {job["image_id"] for job in store[JOBS].find({"state": "succeeded"})} == sent


def test_an_image_that_the_service_refuses_is_told_of_and_the_others_go_on(address: str, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "good.jpg").write_bytes(DrawnPictures(7)[0].data)

    report = simulated(address, jobs=10, pictures=FolderPictures(tmp_path))

    assert not report.ok
    assert any("422" in text for text in report.unexpected)
    assert (report.lost, report.doubled, report.out_of_order) == ([], [], [])
    assert report.states["succeeded"] > 0


def test_with_a_rate_jobs_come_when_they_are_due(address: str):
    report = simulated(address, jobs=11, rate=20)

    assert report.ok, report
    assert report.seconds >= 10 / 20


def test_a_run_that_is_stopped_checks_what_was_begun(address: str):
    simulation = Simulation(address, TOKEN, jobs=1000, rate=20, models=QUICK)
    timer = threading.Thread(target=_stop_at, args=(simulation, 5))
    timer.start()

    report = simulation.run()

    timer.join()
    assert report.ok, report
    assert 5 <= report.jobs < 1000


def _stop_at(simulation: Simulation, ended: int) -> None:
    while simulation.tally.ended < ended:
        threading.Event().wait(0.02)
    simulation.stop()


def test_every_event_is_looked_for_in_kafka_too(address: str, kafka):
    kafka.needs_all()  # the mock cluster finds no place by a time
    settings = load_settings()
    with relay_in_this_process(settings):
        report = simulated(address, jobs=10, kafka=settings)

    assert report.ok, report
    assert report.events_in_kafka == report.events > 0


def test_where_no_event_comes_to_kafka_a_relay_is_asked_for(address: str, kafka):
    report = simulated(address, jobs=5, kafka=load_settings(), patience_seconds=5.0)

    assert (report.ok, report.lost, report.events_in_kafka) == (False, [], 0)
    assert ["Does a relay run?" in text for text in report.unanswered] == [True]


def test_a_kafka_to_which_nothing_was_ever_taken_is_read_to_its_end(address: str, kafka):
    kafka.clear()

    report = simulated(address, jobs=1, kafka=load_settings(), patience_seconds=1.0)

    assert (len(report.unanswered), report.events_in_kafka) == (1, 0)


def test_what_comes_to_kafka_before_the_first_message_is_fetched_is_read(store: Store, kafka):
    settings = load_settings()
    with relay_in_this_process(settings) as said:
        write_job(store, "there before", 1, "created", "created")
        wait_for(lambda: arrived(kafka, {store[COLLECTION].find_one()["_id"]}, "truthloop.job"), "the topic")
        stop = threading.Event()
        # From a time after all that is there: such a reader begins at the end.
        later = first_id_at(time.time_ns() // 1_000_000 + 600_000)
        events = KafkaEvents(settings, follow=True, after=later, stop=stop)
        written = write_job(store, "came meanwhile", 1, "created", "created")
        wait_for(lambda: arrived(kafka, {written}, "truthloop.job"), f"the relay: {said}")

        assert next(iter(events)).id == written
        stop.set()


def test_a_double_behind_the_last_event_that_was_missing_in_kafka_is_found(address: str, store: Store, kafka):
    kafka.needs_all()  # the mock cluster finds no place by a time
    settings = load_settings()

    class Tampered(Simulation):
        """A run after which Kafka holds an event of each job a second time, under another id."""

        def _check(self):
            logged = {event["_id"]: event for event in store[COLLECTION].find({"type": {"$regex": "job"}})}
            wait_for(lambda: len(with_messages(kafka, logged, "truthloop.job")) >= len(logged), "the relay")
            last = {event["subject"]: (event, it) for event, it in with_messages(kafka, logged, "truthloop.job")}
            producer = Producer({"bootstrap.servers": kafka.servers})
            for event, message in last.values():
                doubled = json.dumps(event | {"id": event["id"][:-4] + "beef"})
                producer.produce(message.topic(), doubled, message.key(), partition=message.partition())
            assert producer.flush(30) == 0
            return super()._check()

    with relay_in_this_process(settings):
        report = Tampered(address, TOKEN, jobs=10, models=QUICK, kafka=settings).run()

    assert len(report.doubled) == 10
    assert all("beef" in text and "which the log lacks" in text for text in report.doubled)
    assert (report.lost, report.unanswered) == ([], [])
    assert report.events_in_kafka == report.events


def test_nothing_is_said_to_be_lost_where_kafka_does_not_answer(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")

    report = simulated(address, jobs=5, kafka=load_settings(), patience_seconds=3.0)

    assert not report.ok
    assert (report.lost, report.events_in_kafka) == ([], None)
    assert len(report.unanswered) == 1
    assert "Kafka at 127.0.0.1:1" in report.unanswered[0]


def test_settings_of_kafka_that_cannot_be_used_are_told_of_without_waiting(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TRUTHLOOP_KAFKA_SECURITY_PROTOCOL", "sasl_plaintext")

    # Longer than any test may take.
    report = simulated(address, jobs=5, kafka=load_settings(), patience_seconds=100_000.0)

    assert (report.lost, report.events_in_kafka) == ([], None)
    assert len(report.unanswered) == 1
    assert "TRUTHLOOP_KAFKA_SASL_USERNAME" in report.unanswered[0]
