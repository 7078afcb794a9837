"""The same prompts and lengths for every contender."""

TOPICS = (
    "a fox",
    "the sea",
    "a clock maker",
    "rain in the city",
    "two robots",
    "an old map",
    "a lost key",
    "the first snow",
    "a violin",
    "the desert",
    "a lighthouse",
    "a train ride",
    "a garden",
    "the moon",
    "a library",
    "a small dragon",
)
NEW_TOKENS = 64
PARALLEL = (1, 4, 8, 16)


def story(index: int, salt: int) -> str:
    """A question of about 60 tokens with its chat template, whose answer is longer than NEW_TOKENS.

    Another salt makes another beginning, so that no cache of earlier prompts helps anyone.
    """
    topic = TOPICS[index % len(TOPICS)]
    return (
        f"{salt}-{index + 1}. Write a long and detailed story about {topic}, with at least five paragraphs and a "
        "surprise ending."
    )


def long_text(salt: int) -> str:
    """Far more than 512 tokens, different from its first ones on for each salt."""
    return f"List {salt}. " + " ".join(
        f"Item {number}: the quick brown fox jumps over the lazy dog near the river." for number in range(200)
    )
