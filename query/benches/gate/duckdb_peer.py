"""Runs the statements that come on the standard input, a line each, and fetches all of their rows as Arrow batches.

Needs the packages duckdb (2.0) and pyarrow. The bench of the gate starts it.
"""

import sys

import duckdb

connection = duckdb.connect()
for line in sys.stdin:
    result = connection.sql(line)
    if result is not None:
        print(sum(batch.num_rows for batch in result.to_arrow_reader(8192)))
    print("== done", flush=True)
