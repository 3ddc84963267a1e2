"""One evaluator for every method: pairs of images and masks, metrics with intervals, reports, comparisons."""
