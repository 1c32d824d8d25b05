"""What a load reached, in lines for a person."""

from telemetry_bridge.load.run import Load, LoadReport

_LATE_SECONDS = 0.1


def described(load: Load) -> str:
    """What is about to be sent."""
    backlog = "" if not load.backlog_hours else f", after an outage of {load.backlog_hours:g} h"
    return (
        f"{load.devices} devices of site {load.site}, {load.series} samples each {load.interval_seconds:.3g} s: "
        f"{load.rate:,.0f} samples/s for {load.seconds:g} s{backlog}"
    )


def progress(report: LoadReport, load: Load) -> str:
    """One line while it runs."""
    backlog = f"  backlog {report.backlog_left_ticks:,} ticks left" if load.backlog_hours else ""
    return (
        f"{report.seconds:.0f} s  {report.committed_rate:,.0f} samples/s committed"
        f"  {report.unconfirmed_ticks:,} ticks on their way  commit {_took(report)}{backlog}"
    )


def summary(report: LoadReport, load: Load) -> list[str]:
    """The result, and what in it should not be trusted."""
    rate = f"{report.committed_rate:,.0f} samples/s over {report.seconds:.0f} s"
    lines = [
        f"sent       {report.sent_ticks:,} ticks, {report.sent_ticks * load.series:,} samples",
        f"committed  {report.committed_ticks:,} ticks, {rate}",
        f"commit     {_took(report)} from when a live tick was due to its commit ack",
    ]
    if report.unconfirmed_ticks:
        lines.append(f"missing    {report.unconfirmed_ticks:,} ticks were not confirmed: is an ingester running?")
    if report.backlog_left_ticks:
        lines.append(f"backlog    {report.backlog_left_ticks:,} ticks were not even sent in that time")
    lines += [f"refused    {count:,} times: {reason}" for reason, count in sorted(report.refused.items())]
    if (report.late_p99_seconds or 0) > _LATE_SECONDS:
        lines.append(
            f"late       1 % of the live ticks were sent {report.late_p99_seconds:.2g} s or more after they were due: "
            "this program was the limit; run several, each with a --name of its own"
        )
    return lines


def _took(report: LoadReport) -> str:
    if report.commit_p50_seconds is None or report.commit_p99_seconds is None:
        return "-"
    return f"p50 {report.commit_p50_seconds:.2g} s, p99 {report.commit_p99_seconds:.2g} s"
