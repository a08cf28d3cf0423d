package api

import "github.com/vzcluster/vzcluster/cluster"

// RouteCreateMany creates all containers of a request or none.
const RouteCreateMany = "POST /v1/batch" // CreateManyRequest -> []Created

// CreateManyRequest asks for containers that are placed as one plan.
type CreateManyRequest struct {
	Containers  []CreateRequest `json:"containers"`
	WaitForRoom bool            `json:"wait_for_room,omitempty"`
}

// MaxCreate is how many containers one request may ask for.
const MaxCreate = 10_000

// Created is a container of a CreateManyRequest.
type Created struct {
	ID        int                    `json:"id"`
	Name      string                 `json:"name"`
	Host      string                 `json:"host"` // empty: it waits for room
	State     cluster.ContainerState `json:"state"`
	Addresses []string               `json:"addresses"`
	Why       string                 `json:"why"`
}
