"""A search's folder in an object store, here one that pyarrow's local file system plays: what is uploaded in which
order, who may work on it, and what another machine finds."""

import json
import shutil
import threading

import pytest

from tests.helpers.waiting import PATIENCE, wait_until
from tuning.config.errors import UserError
from tuning.data.plan import make_plan
from tuning.datasets import storage
from tuning.experiment import bucket_sync, locking
from tuning.experiment.bucket_changes import scan
from tuning.experiment.bucket_sync import Mirror, mirror_root, open_folder, refuse_mirror, split_location
from tuning.experiment.directory import SearchFolder, write_json, write_text
from tuning.experiment.locking import Lease


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """URI of a storage; the mirrors lie beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bucket_sync, "INTERVAL_SECONDS", 0.05)
    return f"file://{tmp_path}/bucket"


def begin(folder):
    """What a search writes when it begins."""
    write_json(folder.path / "fingerprint.json", {"corpus": "none"})
    write_text(folder.path / "config.yaml", "seed: 0\n")
    write_text(folder.path / "study.journal", '{"op_code": 0}\n')


def run_a_trial(folder, number=1):
    write_json(folder.trial(number) / "params.json", {"searched": {}, "config": {}})
    write_text(folder.trial(number) / "progress.csv", "epoch\n1\n")
    write_text(folder.trial(number) / "error.txt", "none\n")
    write_json(folder.trial(number) / "result.json", {"number": number, "status": "done"})


def another_machine(bucket):
    """Forget everything that this machine keeps of a storage."""
    shutil.rmtree(mirror_root(bucket))


def content(bucket, name="s"):
    return {file for file in storage.list_files(storage.below(bucket, name)) if not file.startswith(".")}


def test_what_is_written_is_in_the_bucket_while_the_search_runs(bucket):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
        wait_until(lambda: "trials/0001/result.json" in content(bucket))
        assert content(bucket) == {
            *("config.yaml", "fingerprint.json", "study.journal"),
            *(f"trials/0001/{name}" for name in ("params.json", "progress.csv", "error.txt", "result.json")),
        }
        (folder.trial(1) / "result.json").unlink()
    assert "trials/0001/result.json" not in content(bucket)


def test_a_table_that_was_written_anew_with_more_columns_is_in_the_bucket_whole(bucket):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
        wait_until(lambda: "trials/0001/progress.csv" in content(bucket))
        longer = "epoch,val_r2\n1,\n2,0.5\n"
        write_text(folder.trial(1) / "progress.csv", longer)
        place = storage.below(bucket, "s")
        wait_until(lambda: storage.read_bytes(place, "trials/0001/progress.csv").decode() == longer)
        (folder.trial(1) / "progress.csv.17.partial").write_text("epoch,val_")
    assert not [name for name in content(bucket) if "partial" in name]


def test_another_machine_finds_the_search(bucket):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
    another_machine(bucket)
    with open_folder(bucket, "s") as folder:
        assert folder.exists and (folder.path / "config.yaml").read_text() == "seed: 0\n"
        assert (folder.trial(1) / "progress.csv").read_text() == "epoch\n1\n"


def test_a_machine_whose_copy_is_old_takes_the_buckets(bucket, tmp_path, monkeypatch):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        with open_folder(bucket, "s") as folder:
            run_a_trial(folder, 2)
            write_text(folder.path / "config.yaml", "seed: 1\n")
    with open_folder(bucket, "s") as folder:
        assert (folder.path / "config.yaml").read_text() == "seed: 1\n"
        assert (folder.trial(2) / "result.json").exists()


def test_after_a_kill_this_machines_last_moment_counts(bucket, monkeypatch):
    """What a killed driver wrote and did not upload is uploaded by the next one here, unless another went on."""
    monkeypatch.setattr(bucket_sync, "INTERVAL_SECONDS", 1e6)  # the first upload has ended before the kill
    with open_folder(bucket, "s") as folder:
        begin(folder)
        with folder._pushing:
            monkeypatch.setattr(bucket_sync.Mirror, "_push", lambda self: None)  # a kill: nothing more goes up
        run_a_trial(folder)
    assert not any(name.startswith("trials") for name in content(bucket))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.storage.parents[1]))
    with open_folder(bucket, "s") as folder:
        assert (folder.trial(1) / "result.json").exists()
    assert "trials/0001/result.json" in content(bucket)


def test_a_kill_between_any_two_uploads_leaves_no_trial_without_its_study(bucket, monkeypatch):
    """Each prefix of the uploads is a state that a search can go on from."""
    written = []
    upload = storage.write_bytes
    monkeypatch.setattr(bucket_sync, "INTERVAL_SECONDS", 1e6)
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
        run_a_trial(folder, 2)
        monkeypatch.setattr(
            storage, "write_bytes", lambda where, name, text: (written.append(name), upload(where, name, text))
        )
        folder._uploaded.clear()
        folder._push()
    order = [name for name in written if not name.endswith((".held", ".clock"))]
    assert len(order) == len(set(order)) == 11
    needs = {"study.journal": "config.yaml", "config.yaml": "fingerprint.json"}
    for number in ("0001", "0002"):
        needs |= {f"trials/{number}/params.json": "study.journal"}
        needs |= {f"trials/{number}/{name}": f"trials/{number}/params.json" for name in ("progress.csv", "error.txt")}
        needs |= {f"trials/{number}/result.json": f"trials/{number}/progress.csv"}
    assert all(order.index(needed) < order.index(name) for name, needed in needs.items())


def test_the_study_goes_up_as_new_as_the_trials_that_it_knows(bucket, monkeypatch):
    """Trials are looked at before the study, so that one that begins meanwhile is known to it or goes up next time."""
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
        names = [name for name, _ in scan(folder.path)]
        assert names.index("trials/0001/result.json") < names.index("trials/0001/params.json")
        assert names.index("trials/0001/params.json") < names.index("study.journal") < names.index("config.yaml")


def test_half_a_line_is_not_uploaded(bucket):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        with (folder.path / "study.journal").open("a") as stream:
            stream.write('{"op_co')
    assert storage.read_bytes(storage.below(bucket, "s"), "study.journal") == b'{"op_code": 0}\n'


def test_a_mirror_that_is_deleted_takes_nothing_with_it(bucket):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
        folder.flush()
        while folder.path.exists():  # a copy that is under way may put a file into a folder that is being emptied
            shutil.rmtree(folder.path, ignore_errors=True)
    assert content(bucket) >= {"config.yaml", "study.journal", "trials/0001/result.json"}


def test_checkpoints_are_left_to_the_trials(bucket):
    """They upload them from wherever they run; the rest of that folder comes here even if nobody else drove."""
    with open_folder(bucket, "s") as folder:
        begin(folder)
        checkpoints = folder.trial(1) / "checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / "last.pt").write_bytes(b"weights")
        for name in ("last.pt", "folds.json"):
            storage.write_bytes(folder.remote_checkpoints(1), name, b"newer")
    assert storage.read_bytes(folder.remote_checkpoints(1), "last.pt") == b"newer"
    with open_folder(bucket, "s") as folder:
        assert (folder.trial(1) / "checkpoints" / "folds.json").read_bytes() == b"newer"


def test_archived_in_the_bucket(bucket):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
        storage.write_bytes(folder.remote_checkpoints(1), "last.pt", b"weights")
        target = folder.archive()
        assert not folder.exists
        begin(folder)
    name = target.rpartition("/")[2]
    assert content(bucket, name) >= {"config.yaml", "trials/0001/checkpoints/last.pt", "trials/0001/result.json"}
    assert content(bucket) == {"config.yaml", "fingerprint.json", "study.journal"}
    another_machine(bucket)
    with open_folder(bucket, name) as old:
        assert (old.trial(1) / "result.json").exists()


def test_an_archiving_that_is_cut_off_has_archived_or_will(bucket, monkeypatch):
    """Killed before the old files are deleted: they are no search any more, and the archive has them all."""
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
        folder.flush()
        before = content(bucket)

        def killed(location):
            raise KeyboardInterrupt

        with monkeypatch.context() as cut:
            cut.setattr(bucket_sync.storage, "delete_folder", killed)
            with pytest.raises(KeyboardInterrupt):
                folder.archive()
        (archived,) = (name for name in storage.list_folder(bucket) if name.startswith("s-archived"))
        assert content(bucket, archived) == before
        monkeypatch.setattr(Mirror, "_push", lambda self: None)  # the process is dead
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.storage.parents[1]))
    with open_folder(bucket, "s") as folder:
        assert not folder.exists and not folder.records()
    assert content(bucket) == set() and before


def test_an_archiving_that_was_cut_off_leaves_no_old_trials_in_the_new_search(bucket):
    with open_folder(bucket, "s") as folder:
        begin(folder)
        run_a_trial(folder)
    another_machine(bucket)
    storage.delete(folder.remote, "config.yaml")
    with open_folder(bucket, "s") as folder:
        assert not folder.exists and not folder.records()


def test_a_search_that_never_began_leaves_nothing(bucket):
    with open_folder(bucket, "s") as folder:
        write_text(folder.path / "quarantine.csv", "clip,reason\n")
    assert not storage.list_files(bucket)


def test_other_files_are_no_search(bucket):
    storage.write_bytes(storage.below(bucket, "s"), "holiday.jpg", b"sun")
    with pytest.raises(UserError, match="expected an earlier search or nothing"), open_folder(bucket, "s"):
        pass
    assert content(bucket) == {"holiday.jpg"}


def test_a_second_driver_on_another_machine_is_refused(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "RENEWAL_SECONDS", 0.2)
    with open_folder(bucket, "s"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        with (
            pytest.raises(UserError, match=r"no process is running, got 's', which process \d+ on "),
            open_folder(bucket, "s"),
        ):
            pass
    with open_folder(bucket, "s"):  # it was given back
        pass


def test_a_dead_drivers_lease_expires(bucket, monkeypatch):
    monkeypatch.setattr(locking, "EXPIRY_SECONDS", 3.0)
    storage.write_bytes(f"{bucket}/.s.lease", "gone.clock", b"-")  # it was killed while it looked at the time
    Lease(f"{bucket}/.s.lease", "gone", "s").renew()
    said = []
    Lease(f"{bucket}/.s.lease", "next", "s").acquire(said.append)
    assert len(said) == 1 and "sign of life of process" in said[0]
    assert set(storage.list_files(f"{bucket}/.s.lease")) == {"next.held"}


def test_of_two_that_begin_at_once_at_most_one_goes_on(bucket, monkeypatch):
    monkeypatch.setattr(locking, "RENEWAL_SECONDS", 0.02)
    won = [contest(f"{bucket}/.{attempt}.lease") for attempt in range(30)]
    assert max(won) <= 1


def contest(location):
    """Two drivers begin at the same instant; how many of them took the lease."""
    won, refused, start = [], threading.Event(), threading.Barrier(2)

    def contend(who):
        own = Lease(location, who, "s")
        start.wait()
        try:
            own.acquire(lambda words: None)
        except UserError:
            refused.set()
            return
        won.append(who)
        while not refused.wait(0.02) and len(won) < 2:  # alive while the other looks
            own.renew()

    threads = [threading.Thread(target=contend, args=(who,)) for who in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won)


def test_a_driver_that_slept_gives_way(bucket, monkeypatch):
    """Another took over while this one gave no sign of life: it uploads nothing more and says so."""
    told = threading.Event()
    monkeypatch.setattr(locking, "RENEWAL_SECONDS", 0.02)
    monkeypatch.setattr(bucket_sync.os, "kill", lambda *_: told.set())  # it would interrupt pytest
    folder = open_folder(bucket, "s").__enter__()
    begin(folder)
    folder.flush()
    Lease(folder._lease.location, "other", "s").renew()
    assert told.wait(PATIENCE)
    write_text(folder.path / "config.yaml", "seed: 9\n")
    with pytest.raises(UserError, match="got another one that took it over"):
        folder.__exit__()
    assert storage.read_bytes(folder.remote, "config.yaml") == b"seed: 0\n"


def test_a_store_that_can_not_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="storage: expected a bucket to write in, got 'file://"):
        open_folder(f"file://{tmp_path}/file/below", "s").__enter__()


def test_the_mirror_is_not_the_search(bucket, tmp_path):
    with open_folder(bucket, "s") as folder:
        begin(folder)
    with pytest.raises(UserError, match=f"this machine's mirror of it; it is {bucket}/s"):
        refuse_mirror(folder.path)
    refuse_mirror(tmp_path)


def test_locations():
    assert split_location("s3://bucket/a/name") == ("s3://bucket/a", "name")
    assert split_location("s3://bucket/name/?scheme=http") == ("s3://bucket?scheme=http", "name")
    assert split_location("results/name") == ("results", "name")
    assert split_location("name") == (".", "name")
    assert isinstance(open_folder("results", "name"), SearchFolder)
    assert not isinstance(open_folder("results", "name"), Mirror)
    assert open_folder("s3://bucket/a?scheme=http", "n").remote == "s3://bucket/a/n?scheme=http"


@pytest.mark.parametrize("location", ["ftp://host/folder", "s3:/", "s3:/bucket", "s3://", "S3:bucket", "results:old"])
def test_wrong_locations(location):
    if location == "results:old":
        make_plan([f"storage={location}"])  # a folder with a colon
        return
    with pytest.raises(UserError, match="storage: expected a folder, or a URI like s3://bucket/folder"):
        make_plan([f"storage={location}"])


def test_population_based_training_needs_a_disk():
    with pytest.raises(UserError, match=r"search.scheduler: expected another than pbt"):
        make_plan(["storage=s3://bucket/a", "search.scheduler=pbt"])


def test_the_uploaded_index_survives(bucket):
    """A search that goes on uploads what changed, not everything again."""
    with open_folder(bucket, "s") as folder:
        begin(folder)
    before = storage.list_files(folder.remote)["config.yaml"].mtime_ns
    with open_folder(bucket, "s") as folder:
        pass
    assert storage.list_files(folder.remote)["config.yaml"].mtime_ns == before
    assert json.loads((folder.path / ".mirror.json").read_text())["of"] == f"{bucket}/s"
