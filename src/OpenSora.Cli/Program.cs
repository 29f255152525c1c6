using System.CommandLine;
using OpenSora.Cli;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using Spectre.Console;

var path = new Argument<string>("path")
{
    Description = "A weights file (safetensors, .pt, .pth, .bin, .ckpt), the index of a sharded file, a model folder, or a folder with weights.",
};
var section = new Option<string?>("--section")
{
    Description = "The section (dictionary of tensors) of a PyTorch checkpoint to inspect, such as model. The default is ema if present.",
};
var all = new Option<bool>("--all") { Description = "List every tensor." };
var inspect = new Command("inspect", "Shows the contents of weights and the models that they fit, without executing code.") { path, section, all };
inspect.SetAction(result =>
{
    if (Console.IsOutputRedirected)
    {
        (AnsiConsole.Profile.Width, AnsiConsole.Profile.Capabilities.Ansi) = (160, false);
    }

    try
    {
        new Printer(AnsiConsole.Console, result.GetValue(all), Architectures.BuiltIn).Print(result.GetValue(path)!, result.GetValue(section));
        return 0;
    }
    catch (Exception exception) when (exception is InvalidWeightsException or InvalidModelException or IOException or UnauthorizedAccessException)
    {
        Console.Error.WriteLine(exception.Message);
        return 1;
    }
});

return await new RootCommand("Tools for Open-Sora models.") { inspect, PrepareCommand.Create(), SetupCommand.Create() }
    .Parse(args)
    .InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = TimeSpan.FromSeconds(30) })
    .ConfigureAwait(false);
