"""What makes cosines larger whatever is asked: centres, scripts, and their removal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rag.bias import CENTRALITY, ENOUGH, Bias, Centres, bias_of
from rag.dense import DenseIndex, pack

# The first axis is what Chinese texts share, the second English ones; the others are
# what they are about.
CHINESE = [[3, 0, 4, 0], [3, 0, 0, 4]]
ENGLISH = [[0, 3, 4, 0], [0, 3, 0, 4]]
UNSPACED = np.array([True, True, False, False])


def matrix_of(rows: Sequence[Sequence[float]]) -> DenseIndex:
    index = DenseIndex(size=len(rows), dimension=len(rows[0]))
    index.fill([pack(row) for row in rows])
    return index


def bias(*, lift: float | None = 0.2) -> Bias:
    return Bias(
        centrality=np.array([0.5, 0.1, 0.3], np.float32),
        unspaced=np.array([True, False, False]),
        lift=lift,
    )


def test_the_lift_is_what_the_mean_cosine_is_lower_across_scripts():
    found = bias_of(matrix_of(CHINESE + ENGLISH), UNSPACED)

    # Within a script two texts have 9 / 25 in common, across them 0 or 16 / 25.
    assert found.lift == pytest.approx(9 / 25 - 8 / 25, abs=1e-6)
    assert found.unspaced.tolist() == UNSPACED.tolist()


def test_there_is_none_below_nought():
    """Two languages of which each is spoken of two things, and both of the same."""
    rows = [[1, 0], [0, 1], [1, 0], [0, 1]]

    assert bias_of(matrix_of(rows), UNSPACED).lift == 0


@pytest.mark.parametrize("unspaced", [0, 1, 3, 4])
def test_one_chunk_of_a_script_tells_nothing_of_it(unspaced):
    flags = np.arange(4) < unspaced

    assert bias_of(matrix_of(CHINESE + ENGLISH), flags).lift is None


def test_a_chunk_is_as_central_as_it_is_near_to_the_mean():
    index = matrix_of([[1, 0], [1, 0], [0, 1]])

    found = bias_of(index, np.zeros(3, bool))

    assert found.centrality == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_parts_add_up():
    random = np.random.default_rng(3)
    rows = random.standard_normal((200, 8)) + 1
    unspaced = random.random(200) < 0.3
    index = matrix_of(rows.tolist())

    parts = Centres(dimension=8)
    for part in (slice(0, 7), slice(7, 7), slice(7, 200)):
        parts.add(index.matrix[part], unspaced[part])

    whole = bias_of(index, unspaced)
    assert index.matrix @ parts.centre == pytest.approx(whole.centrality, abs=1e-6)
    assert parts.lift == pytest.approx(whole.lift, abs=1e-6)


def test_nothing_is_known_of_an_empty_base():
    found = bias_of(DenseIndex(size=0, dimension=4), np.zeros(0, bool))

    assert found.lift is None
    assert found.centrality.tolist() == []


def test_a_chunk_that_is_near_to_all_others_is_ranked_lower():
    nearness, stand_in = bias(lift=None).corrected(
        np.array([0.8, 0.8, 0.8], np.float32), spaced=True, held=0
    )

    central = CENTRALITY * np.array([0.5, 0.1, 0.3])
    assert nearness == pytest.approx(0.8 - central)
    assert stand_in.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("spaced", "lifted"), [(True, [1, 0, 0]), (False, [0, 1, 1])])
@pytest.mark.parametrize(
    ("held", "doubt"), [(0, 1), (ENOUGH / 4, 0.75), (ENOUGH, 0), (2, 0)]
)
def test_the_other_script_gains_the_more_the_less_is_held(spaced, lifted, held, doubt):
    cosines = np.array([0.4, 0.9, 0.8] if spaced else [0.9, 0.4, 0.3], np.float32)

    nearness, stand_in = bias().corrected(cosines, spaced=spaced, held=held)

    unlifted = cosines - CENTRALITY * np.array([0.5, 0.1, 0.3])
    gained = doubt * np.array(lifted)
    assert nearness == pytest.approx(unlifted + 0.2 * gained, abs=1e-6)
    assert stand_in == pytest.approx(gained)


@pytest.mark.parametrize(("other", "lift"), [(0.75, 0.075), (0.85, 0), (0.95, 0)])
def test_what_is_hardly_farther_from_the_question_gains_little(other, lift):
    cosines = np.array([0.8, other, other], np.float32)

    nearness, _ = bias().corrected(cosines, spaced=False, held=0)

    unlifted = cosines - CENTRALITY * np.array([0.5, 0.1, 0.3])
    assert nearness - unlifted == pytest.approx([0, lift, lift], abs=1e-6)
