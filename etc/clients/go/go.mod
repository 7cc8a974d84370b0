module github.com/sluiced/sluiced/etc/clients/go

go 1.19
