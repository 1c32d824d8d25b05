"""What late samples change of the record, without a database: the record becomes what judging in order gives."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_ingest.alerts.history import Episode, Sample, in_order, judge
from cloud_ingest.alerts.late import Recorded, judge_late, revise
from cloud_ingest.alerts.machine import Open
from cloud_ingest.alerts.rule import Operator, Rule, Severity, Versions

NAN = float("nan")
HOT = Rule(1, Operator.ABOVE, warning=5, critical=7, clear=3, for_ms=3, silence_ms=6)
VERSIONS = Versions([HOT, Rule(2, Operator.ABOVE, warning=6, for_ms=1, silence_ms=6, valid_from_ms=25)])
SAMPLES = st.lists(
    st.tuples(
        st.builds(Sample, st.integers(0, 40), st.sampled_from([NAN, 1.0, 4.0, 6.0, 8.0])),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda it: it[0].time_ms,
)


def record(episodes: Sequence[Episode]) -> list[Recorded]:
    return [Recorded(number, episode) for number, episode in enumerate(episodes)]


def start_of(episode: Episode) -> int:
    return episode.start_ms


@settings(max_examples=500)
@given(SAMPLES)
def test_the_record_becomes_what_judging_in_order_gives(samples: list[tuple[Sample, bool]]) -> None:
    everything = in_order(sample for sample, _ in samples)
    known = in_order(sample for sample, is_late in samples if not is_late)
    late = in_order(sample for sample, is_late in samples if is_late)
    if not late:
        return
    recorded = record(judge(VERSIONS, known)[0])
    judged = judge_late(VERSIONS, everything, late[0].time_ms, late[-1].time_ms, recorded)
    touched = {it.alert_id for it, _ in judged.revision.changed} | {it.alert_id for it in judged.revision.disproved}
    after = [it.episode for it in recorded if it.alert_id not in touched]
    after += [episode for _, episode in judged.revision.changed] + judged.revision.added
    truth, state = judge(VERSIONS, everything)
    assert sorted(after, key=start_of) == truth
    if judged.state is not None:
        assert judged.state == state or (judged.state.is_idle and state.is_idle)


def episode(start_ms: int, end_ms: int | None) -> Episode:
    return Episode(start_ms, start_ms, end_ms, Severity.WARNING, 1, 6, start_ms, 6)


def test_an_episode_that_people_are_busy_with_keeps_its_record() -> None:
    (told,) = record([episode(10, None)])
    revision = revise([told], [episode(5, 20), episode(30, None)])
    assert revision.changed == [(told, episode(30, None))]
    assert (revision.added, revision.disproved) == ([episode(5, 20)], [])


def test_an_episode_that_was_none_is_disproved_and_the_end_by_an_edit_is_nobodys_business() -> None:
    told = Recorded(1, episode(10, 20))
    final = Recorded(2, episode(30, 35), is_final=True)
    revision = revise([told, final], [episode(30, 40)])
    assert (revision.changed, revision.added, revision.disproved) == ([], [], [told])


def test_an_episode_from_before_what_is_kept_goes_on() -> None:
    before = Recorded(1, episode(-1_000, None))
    judged = judge_late(Versions([HOT]), [Sample(0, 4.0), Sample(5, 8.0), Sample(8, 8.0)], 5, 5, [before])
    ((changed, now),) = judged.revision.changed
    assert (changed.alert_id, now.start_ms, now.end_ms, now.severity) == (1, -1_000, None, Severity.CRITICAL)
    assert judged.state is not None
    assert (judged.state.open, judged.state.time_ms) == (Open(-1_000, -1_000, Severity.CRITICAL, 1), 8)
