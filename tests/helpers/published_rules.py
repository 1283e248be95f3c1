"""The published rules of the Amazon Reviews 2023 benchmark files in the plainest Python, to hold others against."""

from __future__ import annotations

Review = tuple[str, str, float, int]
"""User, item, rating, time."""
Case = tuple[str, str, float, int, tuple[str, ...]]
"""A review and the items its user took before."""


def in_plain_python(reviews: list[Review], k: int) -> list[Review]:
    """Users as they first appear; of each the reviews by time, the first of each item; then the k-core."""
    users = list(dict.fromkeys(review[0] for review in reviews))
    kept: list[Review] = []
    for user in users:
        own = sorted((review for review in reviews if review[0] == user), key=lambda review: review[3])
        for place, review in enumerate(own):
            if review[1] not in [earlier[1] for earlier in own[:place]]:
                kept.append(review)
    while True:
        strong = [
            review
            for review in kept
            if sum(review[0] == other[0] for other in kept) >= k and sum(review[1] == other[1] for other in kept) >= k
        ]
        if len(strong) == len(kept):
            return kept
        kept = strong


def splits_in_plain_python(reviews: list[Review], split: str, valid_from: int, test_from: int) -> dict[str, list[Case]]:
    """Train, valid and test of reviews that follow the rules, each with its history, user by user."""
    found: dict[str, list[Case]] = {"train": [], "valid": [], "test": []}
    for user in dict.fromkeys(review[0] for review in reviews):
        own = [review for review in reviews if review[0] == user]
        for place, review in enumerate(own):
            if split == "last_out":
                left = len(own) - place
                part = "test" if left == 1 else "valid" if left == 2 else "train"
            else:
                part = "test" if review[3] >= test_from else "valid" if review[3] >= valid_from else "train"
            found[part].append((*review, tuple(earlier[1] for earlier in own[:place])))
    return found
