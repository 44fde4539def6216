"""``python -m diffmoe.train CONFIG``"""

from .loop import main

if __name__ == "__main__":  # not in the processes that PyTorch starts
    main()
