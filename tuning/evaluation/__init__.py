"""After the search: leaderboard, significance, the final test, saved models and the report."""
