using OpenSora.Cli;

return await CommandLine.RunAsync(args).ConfigureAwait(false);
