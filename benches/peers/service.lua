-- The policy as a service of HAProxy: reads the 23 bytes, answers. The answer is in the file that
-- the environment names.
local file = assert(io.open(os.getenv("ANSWER"), "rb"))
local answer = file:read("*a")
file:close()

core.register_service("policy", "tcp", function(applet)
    if applet:receive(23) == "<policy-file-request/>\0" then
        applet:send(answer)
    end
end)
