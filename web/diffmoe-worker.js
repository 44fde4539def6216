// The script of the workers that compute where there is no GPU; diffmoe.js makes them.
import { work } from "./diffmoe.js";

work();
