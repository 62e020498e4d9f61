"""What is said: statistics, tables, figures, summaries, all from records alone."""
