from mpt.__main__ import main

main()
