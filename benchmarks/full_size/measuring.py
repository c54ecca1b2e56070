"""What a command needs: CPU time, memory of all its processes, and how long it prints nothing. For Linux."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.05  # between two looks at a process
EVERY_SECONDS = 1.0  # between two looks at its memory
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """What a command needed, in seconds and bytes."""

    status: int  # its exit status; negative: the signal that ended it
    seconds: float
    cpu: float  # user and system time of all its processes
    main_cpu: float  # that of the first process alone: those that decode images are others
    memory: int  # the most that all its processes had at once; what they share counts once
    start: float  # the time until the first output, in which the first process computed; waiting is left out
    silence: float  # the longest time without output after it
    busy_silence: float  # the same, without waiting


class Outputs:
    """Copies what a process prints to a file, and measures the silences between."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.start: float | None = None
        self.silence = 0.0
        self.busy_silence = 0.0
        self._process = process
        self._log = log
        self._last = time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._copy)
        self._thread.start()

    def _copy(self) -> None:
        with self._log.open("wb") as log:
            while True:
                data = os.read(self._process.stdout.fileno(), 65536)
                self._end_of_silence()
                if not data:
                    return
                log.write(data)
                log.flush()

    def _end_of_silence(self) -> None:
        now = time.monotonic(), max(cpu_seconds(self._process.pid), self._last[1])
        waited, computed = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        if self.start is None:
            self.start = min(waited, computed)
        else:
            self.silence = max(self.silence, waited)
            self.busy_silence = max(self.busy_silence, min(waited, computed))

    def wait(self) -> None:
        self._thread.join()
        self._process.stdout.close()


def measure(
    command: Sequence[str | Path], *, environment: dict[str, str], log: Path, kill_after: float | None = None
) -> Measured:
    """Run a command to its end; or kill all its processes after ``kill_after`` seconds of the first one's CPU time."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    memory, main_cpu, looked, ended = 0, 0.0, start, 0
    with _signals_after_start() as take_signals:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            take_signals()
            outputs = Outputs(process, log)
            while not ended:
                main_cpu = max(main_cpu, cpu_seconds(process.pid))
                if kill_after is not None and main_cpu >= kill_after:
                    os.killpg(process.pid, signal.SIGKILL)
                    kill_after = None
                if time.monotonic() - looked >= min(EVERY_SECONDS, (time.monotonic() - start) / 4):  # a short step, too
                    memory = max(memory, sum(map(memory_of, session(process.pid))), peak_of(process.pid))
                    looked = time.monotonic()
                time.sleep(LOOK_SECONDS)
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        finally:
            if not ended:  # the benchmark itself was interrupted
                os.killpg(process.pid, signal.SIGKILL)
    process.returncode = os.waitstatus_to_exitcode(status)
    outputs.wait()
    return Measured(
        status=process.returncode,
        seconds=time.monotonic() - start,
        cpu=usage.ru_utime + usage.ru_stime,
        main_cpu=main_cpu,
        memory=memory,
        start=outputs.start or 0.0,
        silence=outputs.silence,
        busy_silence=outputs.busy_silence,
    )


def end_children_by_signal() -> None:
    """Make this process end by an exception at SIGTERM, so that ``measure`` does not leave its command running."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextmanager
def _signals_after_start() -> Iterator[Callable[[], None]]:
    """Hold SIGTERM back while a command is started, which would be left running; yields what then takes the signal."""
    received: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))

    def take_signals() -> None:
        signal.signal(signal.SIGTERM, handler)
        if received:
            signal.raise_signal(signal.SIGTERM)

    try:
        yield take_signals
    finally:
        signal.signal(signal.SIGTERM, handler)


def _stat(process: int | str) -> list[str] | None:
    """The fields of /proc/PROCESS/stat after the name, from the state on; None if the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far, without its children; 0 if it is gone."""
    fields = _stat(process)
    return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def session(leader: int) -> list[int]:
    """All processes of a session."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    stats = {number: _stat(number) for number in numbers}
    return [number for number, fields in stats.items() if fields is not None and int(fields[3]) == leader]


def memory_of(process: int) -> int:
    """Bytes of memory of a process; what several processes share is divided among them. 0 if it is gone."""
    return _kilobytes(f"/proc/{process}/smaps_rollup", "Pss:") * 1024


def peak_of(process: int) -> int:
    """The most bytes of memory that a process has had so far; 0 if it is gone."""
    return _kilobytes(f"/proc/{process}/status", "VmHWM:") * 1024


def _kilobytes(path: str, name: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(name))
