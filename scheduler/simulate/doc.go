// Package simulate runs the scheduler on hosts and containers that are read from CSV files: it places them in their
// order, replays their arrivals and departures, or consolidates a placement.
//
// It decides nothing itself: every decision is that of package scheduler. It owns the files' format and the figures of
// the result. The one rule for callers: write the results only after a run has succeeded, so that nothing is half-done.
package simulate
