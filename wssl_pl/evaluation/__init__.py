"""One evaluator for every method: pairs of images and masks, figures with intervals, reports, comparisons."""
