using System.CommandLine;
using OpenSora.Cli;
using OpenSora.ModelFolders;
using OpenSora.Weights;
using Spectre.Console;

var path = new Argument<string>("path")
{
    Description = "A file of weights (safetensors, .pt, .pth, .bin, .ckpt), the index of shards, a model folder, or a folder of weights.",
};
var section = new Option<string?>("--section")
{
    Description = "Which dictionary of tensors of a PyTorch checkpoint to look at, such as model; default: ema if there is one.",
};
var all = new Option<bool>("--all") { Description = "List every tensor." };
var inspect = new Command("inspect", "Tells what weights hold and which model they fit. Nothing of a file is executed.") { path, section, all };
inspect.SetAction(result =>
{
    if (Console.IsOutputRedirected)
    {
        (AnsiConsole.Profile.Width, AnsiConsole.Profile.Capabilities.Ansi) = (160, false);
    }

    try
    {
        new Printer(AnsiConsole.Console, result.GetValue(all)).Print(result.GetValue(path)!, result.GetValue(section));
        return 0;
    }
    catch (Exception exception) when (exception is InvalidWeightsException or InvalidModelException or IOException or UnauthorizedAccessException)
    {
        Console.Error.WriteLine(exception.Message);
        return 1;
    }
});

return new RootCommand("Tools for models of the Open-Sora family.") { inspect }
    .Parse(args)
    .Invoke();
