from datetime import UTC, datetime

from truthloop.answers import MAX_ROWS, Answer


class Part(Answer):
    name: str
    count: int


class Page(Answer):
    items: list[Part]


class Whole(Answer):
    images: int
    part: Part
    fraction: float | None
    as_of: datetime


def test_a_notebook_shows_a_list_of_items_as_a_table_with_a_row_each():
    html = Page(items=[Part(name="a", count=1), Part(name="b", count=2000)])._repr_html_()

    assert html.count("<tr>") == 3
    assert "<th>name</th><th>count</th>" in html
    assert "<td>2,000</td>" in html


def test_a_notebook_shows_another_answer_as_a_table_of_its_fields():
    html = Whole(
        images=3, part=Part(name="a", count=1), fraction=None, as_of=datetime(2026, 1, 1, tzinfo=UTC)
    )._repr_html_()

    assert "<td>part.count</td><td>1</td>" in html
    assert "<td>fraction</td><td>–</td>" in html
    assert "<td>2026-01-01 00:00:00 UTC</td>" in html


def test_what_is_shown_is_escaped():
    assert "<script>" not in Page(items=[Part(name="<script>", count=1)])._repr_html_()


def test_a_long_list_is_cut_with_the_number_left_out():
    html = Page(items=[Part(name="a", count=n) for n in range(MAX_ROWS + 7)])._repr_html_()

    assert html.count("<tr>") == MAX_ROWS + 1
    assert "and 7 more" in html


def test_an_empty_list_is_an_empty_table():
    assert "<table>" in Page(items=[])._repr_html_()
