import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest
from harness.wait import until

from edge_agent.collectors import mountinfo
from edge_agent.collectors.disk import Disk
from edge_agent.config import Disk as DiskConfig
from telemetry_contract.series import SeriesKey


class Mount(NamedTuple):
    device: str
    mountpoint: str
    fstype: str
    opts: str = "rw,relatime"


ROOT = Mount("/dev/mmcblk0p2", "/", "ext4")


def statvfs_of(*, blocks: int = 1000, free: int = 400, available: int = 350, inodes: int = 0) -> os.statvfs_result:
    return os.statvfs_result((4096, 512, blocks, free, available, inodes, inodes // 4, inodes // 4, 0, 255))


def transfers(base: int) -> SimpleNamespace:
    names = ("read_bytes", "write_bytes", "read_count", "write_count", "read_time", "write_time", "busy_time")
    return SimpleNamespace(**{name: base + place for place, name in enumerate(names)})


def disk(
    *mounts: Mount,
    statvfs: Callable[[str], os.statvfs_result] | None = None,
    config: DiskConfig | None = None,
    disks: dict[str, SimpleNamespace] | None = None,
    blocks: Path = Path("/nonexistent"),
    mounted: Path = Path("/nonexistent"),
) -> Disk:
    def disk_partitions(*, all: bool) -> list[Mount]:  # noqa: A002 - psutil's name
        assert all
        return list(mounts)

    def disk_io_counters(*, perdisk: bool, nowrap: bool) -> Any:
        assert perdisk
        assert not nowrap
        return disks

    return Disk(
        config or DiskConfig(),
        system=SimpleNamespace(disk_partitions=disk_partitions, disk_io_counters=disk_io_counters),
        statvfs=statvfs or (lambda _: statvfs_of()),
        blocks=blocks,
        mounts=mounted,
    )


def mounts_in(found: dict[str, float | None]) -> set[str]:
    return {value for key in found for name, value in SeriesKey.parse(key).labels if name == "mount"}


def test_space_and_inodes_of_a_file_system() -> None:
    found = disk(ROOT, statvfs=lambda _: statvfs_of(blocks=1000, free=400, available=350, inodes=8000)).collect()
    assert found == {
        'disk_total_bytes{mount="/"}': 512_000,
        'disk_used_bytes{mount="/"}': 307_200,
        'disk_available_bytes{mount="/"}': 179_200,
        'disk_usage_percent{mount="/"}': pytest.approx(100 * 600 / 950),
        'disk_read_only{mount="/"}': 0,
        'disk_inodes{mount="/"}': 8000,
        'disk_inodes_used{mount="/"}': 6000,
        'disk_inodes_usage_percent{mount="/"}': 75,
    }


def test_file_system_without_a_fixed_number_of_inodes_says_nothing_of_them() -> None:
    assert not [key for key in disk(ROOT).collect() if "inodes" in key]


def test_read_only_is_told_by_the_option_of_that_name_alone() -> None:
    mounts = (Mount("/dev/a", "/a", "ext4", "ro,noatime"), Mount("/dev/b", "/b", "ext4", "rw,errors=remount-ro"))
    found = disk(*mounts).collect()
    assert found['disk_read_only{mount="/a"}'] == 1
    assert found['disk_read_only{mount="/b"}'] == 0


def test_a_file_system_is_not_read_only_because_this_process_may_not_write_there(tmp_path: Path) -> None:
    mounts = [Mount(f"/dev/{name}", f"/{name}", "ext4", "ro,relatime") for name in ("shut out", "failed", "later")]
    mounted = tmp_path / "mountinfo"
    mounted.write_bytes(
        b"31 22 8:1 / /shut\\040out ro,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
        b"32 22 8:2 / /failed ro,relatime master:2 shared:3 - ext4 /dev/sda2 ro,errors=remount-ro\n"
        b"33 22 8:3 / /later ro,relatime - ext4 /dev/sda3 rw\n"
        b"34 22 8:4 / /later ro,relatime - ext4 /dev/sda4 rw,emergency_ro\n"
        b"rubbish\n"
    )
    found = disk(*mounts, mounted=mounted).collect()
    told = {mount: found[f'disk_read_only{{mount="{mount}"}}'] for mount in ("/shut out", "/failed", "/later")}
    assert told == {"/shut out": 0, "/failed": 1, "/later": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells it on Linux alone")
def test_this_machine_tells_of_every_mount_what_psutil_tells() -> None:
    told = mountinfo.read_only(Path("/proc/self/mountinfo").read_bytes())
    assert {partition.mountpoint for partition in psutil.disk_partitions(all=True)} <= told.keys()


def test_pseudo_file_systems_and_excluded_mounts_are_left_out() -> None:
    mounts = (
        ROOT,
        Mount("proc", "/proc", "proc"),
        Mount("tmpfs", "/run", "tmpfs"),
        Mount("overlay", "/var/lib/docker/overlay2/x/merged", "overlay"),
        Mount("/dev/loop3", "/snap/core/1", "squashfs"),
        Mount("server:/export", "/mnt/nas", "nfs4"),
        Mount("/dev/sdb1", "/media/stick", "vfat"),
    )
    assert mounts_in(disk(*mounts).collect()) == {"/", "/mnt/nas", "/media/stick"}
    wanted = DiskConfig(exclude_file_systems=("nfs4", "proc"), exclude_mounts=("/snap/*", "/media/*"))
    assert mounts_in(disk(*mounts, config=wanted).collect()) == {"/", "/run", "/var/lib/docker/overlay2/x/merged"}


def test_root_of_a_container_counts_though_it_is_an_overlay() -> None:
    mounts = (Mount("overlay", "/", "overlay"), Mount("/dev/sda1", "/etc/hosts", "ext4"))
    assert mounts_in(disk(*mounts).collect()) == {"/", "/etc/hosts"}


def test_a_file_system_mounted_in_many_places_counts_once_at_its_shortest_path() -> None:
    mounts = (Mount("/dev/sda1", "/var/lib/bind", "ext4"), Mount("/dev/sda1", "/data", "ext4"), ROOT)
    assert mounts_in(disk(*mounts).collect()) == {"/", "/data"}


def test_of_file_systems_mounted_over_each_other_the_last_is_seen() -> None:
    mounts = (Mount("/dev/sda1", "/mnt", "ext4", "rw"), Mount("/dev/sdb1", "/mnt", "ext4", "ro"))
    found = disk(*mounts).collect()
    assert mounts_in(found) == {"/mnt"}
    assert found['disk_read_only{mount="/mnt"}'] == 1


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), OSError(107, "not connected")], ids=repr)
def test_a_mount_that_vanished_or_is_not_ours_to_see_is_left_out(error: OSError) -> None:
    def statvfs(path: str) -> os.statvfs_result:
        if path == "/gone":
            raise error
        return statvfs_of()

    assert mounts_in(disk(ROOT, Mount("/dev/sdz", "/gone", "ext4"), statvfs=statvfs).collect()) == {"/"}


def test_a_file_system_without_size_is_a_kernel_interface() -> None:
    assert not disk(Mount("newfs", "/sys/new", "newfs"), statvfs=lambda _: statvfs_of(blocks=0)).collect()


def test_a_mount_that_hangs_holds_up_no_other_and_is_back_when_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge_agent")
    let_go = threading.Event()
    asked: list[str] = []

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        if path == "/mnt/nas" and not let_go.is_set():
            let_go.wait(30)
        return statvfs_of()

    collector = disk(Mount("server:/x", "/mnt/nas", "nfs4"), ROOT, Mount("/dev/sdb", "/zz/b", "xfs"), statvfs=statvfs)
    for _ in range(3):
        assert mounts_in(collector.collect()) == {"/", "/zz/b"}
    assert asked.count("/mnt/nas") == 1
    let_go.set()
    until(lambda: "/mnt/nas" in mounts_in(collector.collect()), 5, "the mount that had hung")
    assert [record.getMessage() for record in caplog.records] == [
        "collector disk: /mnt/nas does not answer and is left out until it does",
        "collector disk: /mnt/nas answers again",
    ]


def test_transfers_of_whole_disks(tmp_path: Path) -> None:
    for name in ("mmcblk0", "loop0", "cciss!c0d0"):
        (tmp_path / name).mkdir()
    disks = {"mmcblk0": transfers(1000), "mmcblk0p2": transfers(1), "loop0": transfers(1), "cciss/c0d0": transfers(5)}
    found = disk(disks=disks, blocks=tmp_path).collect()
    assert {key: value for key, value in found.items() if "mmcblk0" in key} == {
        'disk_read_bytes_total{device="mmcblk0"}': 1000,
        'disk_written_bytes_total{device="mmcblk0"}': 1001,
        'disk_reads_total{device="mmcblk0"}': 1002,
        'disk_writes_total{device="mmcblk0"}': 1003,
        'disk_read_seconds_total{device="mmcblk0"}': 1.004,
        'disk_write_seconds_total{device="mmcblk0"}': 1.005,
        'disk_busy_seconds_total{device="mmcblk0"}': 1.006,
    }
    assert {dict(SeriesKey.parse(key).labels)["device"] for key in found} == {"mmcblk0", "cciss/c0d0"}


def test_on_this_machine_space_agrees_with_the_system() -> None:
    found = Disk(DiskConfig()).collect()
    truth = os.statvfs("/")
    assert found['disk_total_bytes{mount="/"}'] == truth.f_blocks * truth.f_frsize
