package cluster

import iradix "github.com/hashicorp/go-immutable-radix/v2"

// tree is a persistent map that sorts by its keys: a change leaves every copy that was made before as it is. Between
// begin and end changes are made in place, on nodes that no other tree has; copies that are made meanwhile are of no use.
type tree[V any] struct {
	*iradix.Tree[V]
	txn *iradix.Txn[V] // nil: every change stands for itself
}

func newTree[V any]() tree[V] { return tree[V]{Tree: iradix.New[V]()} }

func (t *tree[V]) begin() { t.txn = t.Txn() }

func (t *tree[V]) end() { t.Tree, t.txn = t.txn.CommitOnly(), nil }

func (t *tree[V]) get(key []byte) (V, bool) {
	if t.txn != nil {
		return t.txn.Get(key)
	}
	return t.Get(key)
}

func (t *tree[V]) root() *iradix.Node[V] {
	if t.txn != nil {
		return t.txn.Root()
	}
	return t.Root()
}

func (t *tree[V]) put(key []byte, v V) {
	if t.txn != nil {
		t.txn.Insert(key, v)
		return
	}
	t.Tree, _, _ = t.Insert(key, v)
}

func (t *tree[V]) drop(key []byte) {
	if t.txn != nil {
		t.txn.Delete(key)
		return
	}
	t.Tree, _, _ = t.Delete(key)
}
