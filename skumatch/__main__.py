from skumatch.cli import main

main()
