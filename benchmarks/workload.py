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


def story(index: int) -> str:
    """A question of about 50 tokens with its chat template, whose answer is longer than NEW_TOKENS."""
    topic = TOPICS[index % len(TOPICS)]
    return (
        f"Write a long and detailed story about {topic}, with at least five paragraphs and a surprise ending. "
        f"It is story number {index + 1}."
    )


def long_text(salt: int) -> str:
    """Far more than 512 tokens, different from its first ones on for each salt."""
    return f"List {salt}. " + " ".join(
        f"Item {number}: the quick brown fox jumps over the lazy dog near the river." for number in range(200)
    )
