"""Workers, other interpreters and shards: the report equals that of a single process."""

import json
import socket
import subprocess
import sys
import time

import pytest

RUN = ("--impl=torch.nn", "--loss=l1_loss,mse_loss", "--clause=value,gradient,result-shape")


@pytest.fixture(scope="module")
def server():
    """Start an execnet socket server in another interpreter and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, "-m", "execnet.script.socketserver", address]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host, port = address.split(":")
    for _ in range(100):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield address
    process.kill()
    process.wait()


def cells(outpost, reports, *more):
    done = outpost.apart(
        *("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider"),
        *(*RUN, "--profile=quick", f"--reports={reports}", *more),
    )
    assert done.status == 0, "\n".join(done.out + done.err)
    report = json.loads((outpost.path / reports / "torch.nn" / "conformance.json").read_text())
    return [{k: v for k, v in cell.items() if k != "seconds"} for cell in report["cells"]]


@pytest.fixture(scope="module")
def alone(outpost):
    return cells(outpost, "alone")


def test_workers_give_the_same_report_as_one_process(outpost, alone):
    assert len(alone) == 6
    assert cells(outpost, "workers", "-n2") == alone


def test_another_interpreter_gives_the_same_report(outpost, alone):
    assert cells(outpost, "named", "-d", f"--tx=popen//python={sys.executable}") == alone


def test_a_socket_server_gives_the_same_report(outpost, alone, server):
    elsewhere = outpost.path / "elsewhere"  # pytest-xdist copies pytest there
    elsewhere.mkdir()
    words = ("-d", "--tx=popen", f"--tx=socket={server}//chdir={elsewhere}")
    assert cells(outpost, "socket", *words) == alone
