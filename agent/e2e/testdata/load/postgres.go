package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	_ "github.com/lib/pq" // the driver
	"golang.org/x/sync/errgroup"
)

const schema = `
create table account (id int primary key, total bigint not null);
insert into account select generate_series(0, 1), 0;
create table ledger (worker int, n bigint, primary key (worker, n));`

// postgres runs transactions until it is told to end. Then every commit that was acknowledged is there once, and the
// transaction that was open all the time still has its cursor and its temporary table.
func postgres(addr string, workers int, p *progress) error {
	ctx := context.Background()
	db, err := sql.Open("postgres", "postgres://postgres@"+addr+"/postgres?sslmode=disable&connect_timeout=10")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return err
	}
	end, err := openTransaction(ctx, db)
	if err != nil {
		return err
	}
	all, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		all.Go(func() error {
			if err := work(ctx, db, w, p); err != nil {
				return fmt.Errorf("connection %d: %w", w, err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	if err := end(); err != nil {
		return fmt.Errorf("the open transaction: %w", err)
	}
	return expect(context.Background(), db, p.done(), `select sum(total) from account`)
}

// work commits one transaction after the other over one connection.
func work(ctx context.Context, db *sql.DB, worker int, p *progress) error {
	conn, err := db.Conn(ctx) // never another one
	if err != nil {
		return err
	}
	defer conn.Close()
	n := int64(0)
	for ; p.goesOn(); time.Sleep(pause) {
		if err := transact(ctx, conn, worker, n+1); err != nil {
			return fmt.Errorf("after %d commits: %w", n, err)
		}
		n++
		if err := p.did(1); err != nil {
			return err
		}
	}
	if err := expect(ctx, conn, n, `select count(*) from ledger where worker = $1`, worker); err != nil {
		return err
	}
	return expect(ctx, conn, n, `select max(n) from ledger where worker = $1`, worker)
}

// transact has a row of its own and one that others wait for.
func transact(ctx context.Context, conn *sql.Conn, worker int, n int64) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err = tx.ExecContext(ctx, `insert into ledger values ($1, $2)`, worker, n); err == nil {
		_, err = tx.ExecContext(ctx, `update account set total = total + 1 where id = $1`, worker%2)
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// openTransaction begins one with a cursor, a temporary table and a lock.
func openTransaction(ctx context.Context, db *sql.DB) (end func() error, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, q := range []string{
		`create temporary table mine on commit drop as select generate_series(1, 1000) as n`,
		`declare here cursor for select n from mine order by n`,
		`move 500 from here`,
		`select pg_advisory_xact_lock(4711)`,
	} {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return nil, fmt.Errorf("%s: %w", q, err)
		}
	}
	return func() error {
		if err := expect(ctx, tx, 501, `fetch 1 from here`); err != nil {
			return err
		}
		var had bool
		if err := db.QueryRowContext(ctx, `select pg_try_advisory_lock(4711)`).Scan(&had); err != nil || had {
			return fmt.Errorf("its lock was to be had: %v, %w", had, err)
		}
		return tx.Commit()
	}, nil
}

// expect asks for one number.
func expect(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, want int64, query string, args ...any,
) error {
	var got int64
	if err := db.QueryRowContext(ctx, query, args...).Scan(&got); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	if got != want {
		return fmt.Errorf("%s: %d, but %d were acknowledged", query, got, want)
	}
	return nil
}
