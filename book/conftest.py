"""nbval runs the committed notebooks again. Progress bars and warnings (stderr) are not part of the comparison."""


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
