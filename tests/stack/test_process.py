"""Processes: identity, signals, descendants, logs."""

import signal
import subprocess
import sys
from dataclasses import replace

from bertjobs.stack import process


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    record = process.identify(child.pid)
    child.stdout.read()
    child.stdout.close()
    try:
        assert process.wait_gone(record, timeout_s=20)  # nobody has waited for it yet
    finally:
        child.wait()


def test_a_process_under_the_same_pid_gets_no_signal(sleeper):
    impostor = replace(process.identify(sleeper.pid), started="another boot:1")
    process.send(impostor, signal.SIGKILL)
    process.stop(impostor, grace_s=0.1)
    assert sleeper.poll() is None


def test_a_process_that_ignores_sigterm_is_killed():
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    script = f"{deaf}; print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        process.stop(process.identify(child.pid), grace_s=0.2)
        assert child.wait(timeout=10) == -signal.SIGKILL


def test_a_session_whose_pid_another_process_has_now_is_left_alone(sleeper):
    gone = replace(process.identify(sleeper.pid), started=process.launch.boot() + ":1")
    assert process.descendants("ray", home="/nowhere", leader=gone) == []


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {i}\n" for i in range(20000)))
    assert process.tail(log, num_lines=2) == "line 19998\nline 19999"
    assert process.tail(tmp_path / "none", num_lines=2) == ""
