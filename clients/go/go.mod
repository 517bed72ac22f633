module connmix.invalid/connmix

go 1.19
