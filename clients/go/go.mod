module connmix

go 1.19
