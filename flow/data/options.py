"""The options of a data set; they are part of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataOptions:
    """Which data set, and how it is cut."""

    data: str = "shakespeare"
    """The data set: "shakespeare" (next character); the path of your own texts (next word), as .jsonl, .csv, .tsv, .parquet, a
    folder of tables or a pattern, or a folder of text files; StackOverflow, Shakespeare or Reddit in the files of TensorFlow
    Federated, fedjax, LEAF or pfl-research; hf:OWNER/NAME[:SPLIT] or a saved folder of Hugging Face; git:PATH, the commit
    messages of a repository; dirichlet:ALPHA:CLIENTS:SOURCE, which deals the texts of another source out anew; or "synthetic"
    (next word, of no meaning, any number of clients). docs/data.md has all of them. A run records the absolute path
    of a file."""

    sequence_length: int = 0
    """Targets per training sequence; 0: 80 characters, or 20 words or tokens of a file. With label_column: tokens of a text,
    the rest of which is cut off; 0: 256 characters, or 64 words or tokens."""

    vocabulary_size: int = 10_000
    """How many of the most frequent tokens get an id, counted on training texts of clients that are not held out only."""

    oov_buckets: int = 1
    """How many ids the other tokens share, by their hash. (FedRecon: 500.)"""

    max_clients: int = 0
    """Take only the first N clients in the order of the crc32 of their ids; 0: all."""

    tokenizer: str | None = None
    """What a token is: "words"; "characters", for languages that write no spaces between words; "spaces", for text that was cut
    before; or what a FILE.json of the library tokenizers (Hugging Face) makes, with the file's own vocabulary. None:
    "characters" for "shakespeare", else "words". A run records the absolute path of a file."""

    clients: int | None = None
    """Clients of "synthetic", one in ten of them held out. None: 1000. (StackOverflow: 342,477 that train.)"""

    sequences: int | None = None
    """Training sequences of a client of "synthetic", on average; most have fewer, few have many. None: 64. (StackOverflow:
    397.)"""

    data_seed: int | None = None
    """Decides the clients of "synthetic", and who gets which text by "dirichlet:...". None: 0."""

    client_column: str | None = None
    """The column of a table (CSV, TSV, Parquet, or a data set of Hugging Face) that names the client of a row. None: one of a
    usual name, such as user_id or author. '' in a file: all rows are of one client."""

    text_column: str | None = None
    """The column of a table that holds the text. None: one of a usual name, such as text or body."""

    time_column: str | None = None
    """The column of a table with the time of a row, as Unix seconds or ISO 8601; a client's texts are put in its order.
    None: one of a usual name, such as created_utc; without one, the order of the rows."""

    group_column: str | None = None
    """The column of a table that names the group or label of a row. None: one of a usual name, such as subreddit, if any."""

    label_column: str | None = None
    """The column of a table with the class of every text, the field of a .jsonl file with a list of them, or y of LEAF's
    files. Giving it makes the task the classification of texts (docs/tasks.md): a text is its first sequence_length tokens, by
    default 64 words or tokens, or 256 characters. None: the next token is predicted."""

    protocol: str | None = None
    """Which published preparation of StackOverflow is followed: "tff" (Reddi et al. 2021) or "motley" (Wu et al. 2022), see
    docs/data.md. None: sentences are cut as all texts are."""

    authors: str | None = None
    """What names a client of git:PATH: "hashed", a hash of the author's name, or "names", the name itself. None: "hashed"."""
