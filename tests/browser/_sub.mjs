import { after } from "node:test";
import { close } from "./lab.mjs";
after(close);
for (const f of process.env.FILES.split(",")) await import("./" + f);
