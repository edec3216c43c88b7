from mpt.cli import main

main()
