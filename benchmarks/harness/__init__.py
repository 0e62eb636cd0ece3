"""Harness of all benchmarks: rounds, results, tables and the command line.

    Benchmark ─ Case.prepare(context) → PreparedCase ─ turns, goals, facts
        command.py   options → every case → JSON after each → Markdown → exit status
        rounds.py    every turn once per round, each round begins with another → Measurements
        results.py   Run → JSON, JSON → Run; medians over the rounds
        table.py     Run → Markdown: conditions, goals, figures

A benchmark is its cases: what to start, what to measure, which goals.
"""
