"""Digests, and folders that are finished or absent."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from recbole_sda.artefacts import (
    DIGEST_CHARS,
    build_once,
    clear_folder,
    digest,
    read_manifest,
    write_manifest,
    written_whole,
)

SETTINGS = {"seed": 1, "backbone": "tiny", "prompts": {"image": "a", "text": "b"}, "modalities": ["image", "text"]}


def test_the_digest_does_not_depend_on_order():
    reordered = {key: SETTINGS[key] for key in reversed(SETTINGS)}
    reordered["prompts"] = {"text": "b", "image": "a"}
    assert list(reordered) != list(SETTINGS)
    assert digest(reordered) == digest(SETTINGS)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"seed": "1"},
        {"seed": None},
        {"seed": True},
        {"backbone": "Tiny"},
        {"prompts": {"image": "b", "text": "a"}},
        {"prompts": {"image": "a"}},
        {"modalities": ["text", "image"]},
        {"another": None},
    ],
)
def test_the_digest_depends_on_every_value(change):
    assert digest({**SETTINGS, **change}) != digest(SETTINGS)


@pytest.mark.parametrize("key", SETTINGS)
def test_the_digest_depends_on_every_key(key):
    assert digest({other: SETTINGS[other] for other in SETTINGS if other != key}) != digest(SETTINGS)


def test_the_digest_is_a_name_for_a_folder_and_the_same_everywhere():
    assert len(digest(SETTINGS)) == DIGEST_CHARS
    assert set(digest(SETTINGS)) <= set("0123456789abcdef")
    # sha256sum of the JSON text, made with the shell
    assert digest({"title": "Café", "r": 8}) == "e16531f2aae18046"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_cannot_say_has_no_digest(value):
    with pytest.raises((TypeError, ValueError)):
        digest({"value": value})


def test_built_once_then_reused(tmp_path):
    folder, builds = tmp_path / "features" / "abc", []

    def build(unfinished):
        assert unfinished.is_dir()
        assert list(unfinished.iterdir()) == []
        assert unfinished.parent == folder.parent  # the same disk: renaming is at once
        assert not folder.exists()
        (unfinished / "data.txt").write_text("built")
        builds.append(unfinished)

    assert build_once(folder, build) is True
    assert build_once(str(folder), build) is False
    assert len(builds) == 1
    assert (folder / "data.txt").read_text() == "built"
    assert [path.name for path in folder.iterdir()] == ["data.txt"]
    assert not builds[0].exists()


def test_a_failed_build_leaves_nothing_finished(tmp_path):
    folder = tmp_path / "abc"

    def fail(unfinished):
        (unfinished / "half.txt").write_text("half")
        raise RuntimeError("disk full")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="disk full"):
            build_once(folder, fail)
        assert not folder.exists()
    assert build_once(folder, lambda unfinished: (unfinished / "whole.txt").touch()) is True
    assert sorted(path.name for path in folder.iterdir()) == ["half.txt", "whole.txt"]


def test_what_a_killed_process_left_is_there_to_go_on_from(tmp_path):
    folder, leftover = tmp_path / "abc", tmp_path / "abc.unfinished"
    leftover.mkdir()
    (leftover / "half.txt").write_text("half")

    def go_on(unfinished):
        assert [path.name for path in unfinished.iterdir()] == ["half.txt"]
        clear_folder(unfinished)
        (unfinished / "sub").mkdir()
        clear_folder(unfinished)

    assert build_once(folder, go_on) is True
    assert list(folder.iterdir()) == []
    assert not leftover.exists()


def test_two_artefacts_do_not_wait_for_each_other(tmp_path):
    def build_another(_):
        assert build_once(tmp_path / "other", lambda _: None) is True

    assert build_once(tmp_path / "abc", build_another) is True
    assert (tmp_path / "abc").is_dir()
    assert (tmp_path / "other").is_dir()


def test_two_processes_that_ask_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_ask, args=(tmp_path, name, start, answers), daemon=True)
        for name in ("one", "two", "three")
    ]
    for process in processes:
        process.start()
    built = [answers.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(built) == [False, False, True]
    assert len(list(tmp_path.glob("built-by-*"))) == 1
    assert (tmp_path / "abc" / "whole.txt").is_file()


def test_a_manifest_comes_back_as_it_went(tmp_path):
    manifest = {"settings": SETTINGS, "title": "Café ☕", "seconds": 1.5, "none": None}
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert "Café ☕" in text
    assert json.loads(text) == manifest


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.txt"

    def fail():
        with written_whole(path) as unfinished:
            unfinished.write_text("ha")
            raise OSError("disk full")

    with written_whole(path) as unfinished:
        unfinished.write_text("whole")
        assert not path.exists()
    with pytest.raises(OSError, match="disk full"):
        fail()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "whole"}


def test_what_killed_writers_left_goes_at_the_next_write_and_what_others_write_stays(tmp_path):
    path, context = tmp_path / "a[1].txt", multiprocessing.get_context("spawn")
    begun = context.Queue()
    writers = [context.Process(target=_write_for_ever, args=(path, begun), daemon=True) for _ in range(2)]
    for writer in writers:
        writer.start()
    killed, writing = (path.with_name(begun.get(timeout=300)) for _ in writers)
    (victim,) = (writer for writer in writers if f".{writer.pid}." in killed.name)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    others = [tmp_path / f"a[1].txt.elsewhere.{victim.pid}.unfinished", tmp_path / "a[1].txt.unfinished"]
    others += [killed.with_name(killed.name.replace("a[1]", "a1")), killed.with_name(f"b{killed.name}")]
    for other in others:
        other.touch()
    assert killed.exists()
    with written_whole(path) as unfinished:
        unfinished.write_text("whole")
        assert sorted(tmp_path.iterdir()) == sorted([*others, writing, unfinished])
    assert sorted(tmp_path.iterdir()) == sorted([*others, writing, path])
    for writer in writers:
        writer.kill()
        writer.join()


def _write_for_ever(path, begun):
    with written_whole(path) as unfinished:
        unfinished.write_text("ha")
        begun.put(unfinished.name)
        time.sleep(600)


def _ask(folder, name, start, answers):
    def build(unfinished):
        (folder / f"built-by-{name}").touch()
        time.sleep(0.5)  # the others ask meanwhile
        (unfinished / "whole.txt").touch()

    start.wait()
    answers.put(build_once(folder / "abc", build))
