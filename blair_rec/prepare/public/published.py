"""Published statistics of each category of Amazon Reviews 2023: users, items and events, in all and per split.

From https://amazon-reviews-2023.github.io/data_processing/0core.html and 5core.html.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """Statistics of a category, rounded as published, such as 253, 2.5K or 1.6M."""

    users: str
    items: str
    events: str
    last_out: tuple[str, str, str]
    """Training, validation and test events."""
    timestamp: tuple[str, str, str]


def published(core: int, category: str) -> Published | None:
    """Return the statistics of one category for core 0 or 5; None if there are none."""
    for line in _TABLE.splitlines():
        row_core, name, users, items, events, *splits = line.split()
        if (row_core, name) == (str(core), category):
            train, valid, test, *by_time = splits
            return Published(users, items, events, (train, valid, test), (by_time[0], by_time[1], by_time[2]))
    return None


def categories(core: int = 0) -> list[str]:
    """Return all categories; some have no 5-core."""
    return [line.split()[1] for line in _TABLE.splitlines() if line.startswith(f"{core} ")]


def rounded(count: int) -> str:
    """Round a count as in the published tables: 253 -> '253', 2535 -> '2.5K', 1628934 -> '1.6M'."""
    for size, letter in ((10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


# core, category, users, items, events; last_out: train, valid, test; timestamp: train, valid, test
_TABLE = """\
0 All_Beauty 632.0K 112.6K 693.9K 19.1K 42.8K 632.0K 583.2K 71.8K 39.0K
0 Amazon_Fashion 2.0M 825.9K 2.5M 157.5K 281.4K 2.0M 2.2M 194.8K 108.4K
0 Appliances 1.8M 94.3K 2.1M 104.8K 243.4K 1.8M 1.6M 260.5K 268.8K
0 Arts_Crafts_and_Sewing 4.6M 801.3K 8.8M 2.8M 1.4M 4.6M 6.7M 1.1M 1.1M
0 Automotive 8.0M 2.0M 19.7M 8.4M 3.3M 8.0M 14.9M 2.4M 2.4M
0 Baby_Products 3.4M 217.7K 6.0M 1.6M 1.0M 3.4M 4.9M 517.4K 550.4K
0 Beauty_and_Personal_Care 11.3M 1.0M 23.6M 8.0M 4.2M 11.3M 17.2M 3.0M 3.5M
0 Books 10.3M 4.4M 29.1M 14.5M 4.3M 10.3M 26.2M 1.6M 1.4M
0 CDs_and_Vinyl 1.8M 701.7K 4.8M 2.4M 648.8K 1.8M 4.5M 138.8K 105.9K
0 Cell_Phones_and_Accessories 11.6M 1.3M 20.6M 4.9M 4.1M 11.6M 16.3M 2.1M 2.1M
0 Clothing_Shoes_and_Jewelry 22.6M 7.2M 65.2M 31.1M 11.5M 22.6M 48.8M 8.1M 8.3M
0 Digital_Music 101.0K 70.5K 128.8K 15.8K 12.0K 101.0K 112.8K 8.2K 7.8K
0 Electronics 18.3M 1.6M 43.4M 17.2M 7.8M 18.3M 35.3M 4.0M 4.1M
0 Gift_Cards 132.7K 1.1K 149.9K 5.7K 11.4K 132.7K 123.6K 14.0K 12.4K
0 Grocery_and_Gourmet_Food 7.0M 603.2K 14.1M 4.7M 2.4M 7.0M 10.4M 1.9M 1.7M
0 Handmade_Products 586.6K 164.7K 656.1K 19.1K 50.4K 586.6K 457.1K 94.1K 104.9K
0 Health_and_Household 12.5M 797.4K 25.3M 8.2M 4.5M 12.5M 18.7M 3.2M 3.3M
0 Health_and_Personal_Care 461.7K 60.3K 488.2K 8.1K 18.4K 461.7K 413.3K 45.4K 29.4K
0 Home_and_Kitchen 23.2M 3.7M 66.6M 31.7M 11.7M 23.2M 49.5M 8.4M 8.7M
0 Industrial_and_Scientific 3.4M 427.5K 5.1M 921.3K 759.3K 3.4M 3.8M 690.9K 639.4K
0 Kindle_Store 5.6M 1.6M 25.3M 16.9M 2.7M 5.6M 22.0M 1.7M 1.5M
0 Magazine_Subscriptions 60.1K 3.4K 70.9K 4.0K 6.8K 60.1K 67.7K 2.1K 1.1K
0 Movies_and_TV 6.5M 747.8K 17.2M 8.0M 2.7M 6.5M 16.1M 590.9K 494.7K
0 Musical_Instruments 1.8M 213.6K 3.0M 769.6K 443.2K 1.8M 2.4M 266.8K 274.2K
0 Office_Products 7.6M 710.4K 12.7M 2.9M 2.2M 7.6M 9.9M 1.4M 1.4M
0 Patio_Lawn_and_Garden 8.6M 851.7K 16.3M 4.7M 3.0M 8.6M 11.6M 2.4M 2.3M
0 Pet_Supplies 7.8M 492.7K 16.6M 5.9M 3.0M 7.8M 12.4M 2.1M 2.1M
0 Software 2.6M 89.2K 4.8M 1.4M 826.8K 2.6M 4.6M 140.7K 94.1K
0 Sports_and_Outdoors 10.3M 1.6M 19.3M 5.5M 3.5M 10.3M 15.7M 1.8M 1.8M
0 Subscription_Boxes 15.2K 641 16.0K 144 572 15.2K 12.6K 2.1K 1.2K
0 Tools_and_Home_Improvement 12.2M 1.5M 26.6M 9.7M 4.7M 12.2M 19.9M 3.3M 3.4M
0 Toys_and_Games 8.1M 890.7K 16.1M 5.1M 2.8M 8.1M 12.4M 1.7M 1.9M
0 Video_Games 2.8M 137.2K 4.6M 1.0M 743.8K 2.8M 3.8M 344.6K 363.9K
0 Unknown 23.1M 13.2M 63.1M 28.5M 11.5M 23.1M 58.0M 3.0M 2.1M
5 All_Beauty 253 356 2.5K 2.0K 253 253 2.2K 276 22
5 Arts_Crafts_and_Sewing 197.3K 90.0K 1.8M 1.4M 197.3K 197.3K 1.4M 192.8K 210.8K
5 Automotive 632.1K 267.3K 6.1M 4.8M 632.1K 632.1K 4.8M 649.2K 604.7K
5 Baby_Products 150.8K 36.0K 1.2M 939.5K 150.8K 150.8K 1.1M 74.2K 99.5K
5 Beauty_and_Personal_Care 729.6K 207.6K 6.6M 5.2M 729.6K 729.6K 4.8M 773.6K 1.0M
5 Books 776.4K 495.1K 9.5M 7.9M 776.4K 776.4K 8.7M 426.2K 328.2K
5 CDs_and_Vinyl 123.9K 89.4K 1.6M 1.3M 123.9K 123.9K 1.5M 31.1K 21.2K
5 Cell_Phones_and_Accessories 381.0K 111.5K 2.8M 2.0M 381.0K 381.0K 2.2M 239.4K 304.5K
5 Clothing_Shoes_and_Jewelry 2.5M 715.0K 23.1M 18.1M 2.5M 2.5M 16.8M 3.0M 3.3M
5 Electronics 1.6M 368.2K 15.5M 12.2M 1.6M 1.6M 13.1M 1.2M 1.2M
5 Gift_Cards 377 129 2.4K 1.7K 377 377 2.2K 155 107
5 Grocery_and_Gourmet_Food 404.8K 132.9K 3.9M 3.1M 404.8K 404.8K 3.0M 516.5K 437.7K
5 Health_and_Household 796.1K 184.3K 7.2M 5.6M 796.1K 796.1K 5.4M 821.5K 915.7K
5 Home_and_Kitchen 2.9M 763.6K 28.2M 22.4M 2.9M 2.9M 21.4M 3.3M 3.6M
5 Industrial_and_Scientific 51.0K 25.8K 412.9K 311.0K 51.0K 51.0K 297.9K 44.1K 70.9K
5 Kindle_Store 892.2K 466.6K 16.1M 14.3M 892.2K 892.2K 13.8M 1.3M 1.0M
5 Magazine_Subscriptions 30 21 176 116 30 30 166 9 1
5 Movies_and_TV 657.2K 197.9K 7.4M 6.1M 657.2K 657.2K 7.1M 204.8K 146.0K
5 Musical_Instruments 57.4K 24.6K 511.8K 397.0K 57.4K 57.4K 428.0K 41.3K 42.6K
5 Office_Products 223.3K 77.6K 1.8M 1.4M 223.3K 223.3K 1.4M 140.7K 218.8K
5 Patio_Lawn_and_Garden 416.6K 133.4K 3.4M 2.6M 416.6K 416.6K 2.5M 432.0K 461.8K
5 Pet_Supplies 594.8K 114.6K 5.3M 4.1M 594.8K 594.8K 4.1M 551.7K 588.1K
5 Software 146.4K 17.6K 1.3M 984.0K 146.4K 146.4K 1.2M 35.4K 19.4K
5 Sports_and_Outdoors 409.8K 156.2K 3.5M 2.7M 409.8K 409.8K 2.9M 260.3K 344.0K
5 Tools_and_Home_Improvement 842.0K 274.7K 7.9M 6.2M 842.0K 842.0K 6.0M 833.9K 1.0M
5 Toys_and_Games 432.3K 162.0K 3.9M 3.0M 432.3K 432.3K 3.1M 306.9K 440.0K
5 Video_Games 94.8K 25.6K 814.6K 625.1K 94.8K 94.8K 736.8K 34.5K 43.2K
5 Unknown 1.6M 694.3K 14.6M 11.4M 1.6M 1.6M 14.0M 357.3K 278.7K"""
