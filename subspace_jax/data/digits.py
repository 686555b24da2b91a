"""The built-in data set: scikit-learn's digits, with one fixed split.

The images are ordered by their 43 writers, so a split by position would test on unseen writers; the stratified one
mixes writers and classes. Its training part keeps the shuffled order: the first N samples are a random sample.
"""

import numpy as np

SPLITS = {"train": 1437, "test": 360}


def arrays(split: str) -> dict[str, np.ndarray]:
    """One split straight from scikit-learn: image uint8 (n, 8, 8, 1) in 0..16, label and index int64 (n,)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    halves = train_test_split(np.arange(len(labels)), test_size=SPLITS["test"], stratify=labels, random_state=0)
    index = halves[list(SPLITS).index(split)]
    return {"image": images[index].astype(np.uint8).reshape(-1, 8, 8, 1), "label": labels[index], "index": index}
