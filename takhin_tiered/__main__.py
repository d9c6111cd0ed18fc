from takhin_tiered.cli.start import main

if __name__ == "__main__":
    main()
