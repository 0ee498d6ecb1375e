import hashlib
import threading
import time
from collections import Counter
from pathlib import Path

from api.service import TOKEN
from events.relays import arrived, relay_in_this_process, wait_for, write_job
from simulate.flaky import flaky
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
}


def test_what_is_lost_doubled_or_out_of_order_is_found(address: str, store: Store):
    tampered: dict[str, object] = {}

    class Tampered(Simulation):
        """A run after which somebody writes into the database, before all is read back."""

        def _check(self):
            succeeded = [job["_id"] for job in store[JOBS].find({"state": "succeeded", "attempts": 1})]
            for tamper, job in zip(TAMPERINGS, succeeded, strict=False):
                tamper(store, job)
                tampered[job] = tamper
            return super()._check()

    report = Tampered(address, TOKEN, jobs=14, models=QUICK, concurrency=4).run()

    assert not report.ok
    assert len(tampered) == len(TAMPERINGS)
    for job, tamper in tampered.items():
        fault, text = TAMPERINGS[tamper]
        # One that was made twice is told of by the id of the second.
        assert [each for each in getattr(report, fault) if job[:-4] in each and text in each], tamper
    assert all(
        any(job[:-4] in each for job in tampered)
        for each in report.lost + report.doubled + report.out_of_order + report.unexpected
    )


def test_jobs_that_no_worker_takes_are_told_of_when_patience_ends(idle: str):
    report = simulated(idle, jobs=1000, patience_seconds=1.0)

    assert not report.ok
    assert report.jobs < 100
    assert len(report.lost) == len(report.unanswered) > 0
    assert all("has not ended: it is queued" in text for text in report.lost)
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
    settings = load_settings()
    with relay_in_this_process(settings):
        report = simulated(address, jobs=10, kafka=settings)

    assert report.ok, report
    assert report.events_in_kafka == report.events > 0


def test_events_that_no_relay_takes_to_kafka_are_lost(address: str, kafka):
    report = simulated(address, jobs=5, kafka=load_settings(), patience_seconds=5.0)

    assert len(report.lost) == 5
    assert all("Kafka lacks the events 1, 2" in text for text in report.lost)


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
