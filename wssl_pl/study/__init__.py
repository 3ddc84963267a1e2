"""The paper's claim as declared runs: arms x seeds on Ray, controls, and a report with verdicts."""
