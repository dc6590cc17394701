"""Pace: commits come by rows and by time, and never take most of the time."""

import pytest

from caption.pace import LONGEST, Pace


class Disk:
    """A clock that goes on while it commits."""

    def __init__(self, seconds=0.0):
        self.now, self.seconds, self.commits = 100.0, seconds, []

    def commit(self):
        self.now += self.seconds
        self.commits.append(self.now)


def test_so_many_rows_are_committed_at_once():
    disk = Disk()
    pace = Pace(10, lambda: disk.now)
    for waiting in (0, 9, 10, 3, 12):
        pace.run(waiting, disk.commit)
    assert len(disk.commits) == 2


def test_a_single_row_waits_no_longer_than_half_a_minute():
    disk = Disk()
    pace = Pace(10, lambda: disk.now)
    disk.now += 1000  # without a row
    pace.run(0, disk.commit)
    disk.now += LONGEST - 1
    pace.run(1, disk.commit)
    assert not disk.commits
    disk.now += 1
    pace.run(1, disk.commit)
    assert len(disk.commits) == 1


@pytest.mark.parametrize("seconds", [0.01, 1.0, 20.0])
def test_a_slow_disk_takes_a_fifth_of_the_time_unless_rows_have_waited_long(seconds):
    disk = Disk(seconds)
    pace = Pace(10, lambda: disk.now)
    begin = disk.now
    while len(disk.commits) < 50:
        pace.run(1000, disk.commit)
        disk.now += seconds / 100
    share = 50 * seconds / (disk.now - begin)
    assert 0.17 < share <= 0.21 if seconds < LONGEST / 4 else 0.35 < share <= 0.41
