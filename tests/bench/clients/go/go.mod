module bench

go 1.19

require github.com/sluiced/sluiced/etc/clients/go v0.0.0

replace github.com/sluiced/sluiced/etc/clients/go => ../../../../etc/clients/go
