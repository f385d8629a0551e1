"""The page on the demo is what its records say."""

import demo_results


def test_the_page_is_what_the_records_beside_it_say() -> None:
    page = (demo_results.TARGET / "README.md").read_text(encoding="utf-8")
    assert page == demo_results.page(demo_results.kept())
    assert "The 10 constraints are those that were trained on" in page and "+0.37 [+0.17, +0.57]" in page
