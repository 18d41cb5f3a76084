mod crash;
mod damage;
mod driver;
mod golden;
mod real;
mod threads;
mod writing;
